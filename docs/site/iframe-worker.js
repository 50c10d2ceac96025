// Browsers start no Worker on a page that was opened from a file. The search then runs in a hidden frame instead.
// Its name is what the theme looks for: in the list of scripts (mkdocs.yml), and in the window (IFrameWorker).
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      inside.document.write("<!doctype html><title>search</title>");
      inside.document.close();
      inside.importScripts = async (...urls) => { for (const next of urls) await run(next); };
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const run = (source) => new Promise((done, failed) => {
        const script = inside.document.createElement("script");
        script.src = new URL(source, document.baseURI);
        script.onload = done;
        script.onerror = () => failed(new Error(`${script.src} cannot be read`));
        inside.document.head.append(script);
      });
      this.ready = run(url);
      this.inside = inside;
    }

    async postMessage(data) {
      await this.ready;
      this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }));
    }
  };
}
