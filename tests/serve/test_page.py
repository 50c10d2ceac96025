"""The page at `/` in a real browser: every trial, right to left, on a phone, dark, locked; nothing from elsewhere."""

import re
import shutil

import httpx
import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        place = {"executable_path": CHROMIUM} if CHROMIUM else {}
        try:
            found = running.chromium.launch(args=["--no-sandbox"], **place)
        except playwright.Error:
            pytest.skip("no Chromium here: apt install chromium, or playwright install chromium")
        yield found
        found.close()


@pytest.fixture
def page(browser):
    """A page that notes what it complains of and whatever it asks of other hosts."""
    found = browser.new_page()
    found.wrong = []
    found.on("console", lambda message: found.wrong.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: found.wrong.append(str(error)))
    found.asked = []
    found.on("request", lambda request: found.asked.append(request.url))
    yield found
    found.close()


def tried(page, name, texts, button):
    """What a section shows after its fields are filled and its button is pressed."""
    section = page.locator(f"#{name}")
    for field, text in zip(section.locator("textarea, input").all(), texts, strict=True):
        field.fill(text)
    section.get_by_role("button", name=button, exact=True).click()
    section.locator("button:disabled").wait_for(state="detached")  # what was found before stands there until then
    section.locator(".found > *").first.wait_for()
    return section.locator(".found")


def test_what_is_loaded_is_shown_and_every_trial_works(server, page):
    page.goto(server.url)
    page.get_by_text("What is loaded", exact=True).wait_for()
    assert page.locator("#loaded dt").count() == 9
    assert "one forward pass with topics" in page.locator("#loaded dd").all_inner_texts()
    page.locator("#fill select").select_option("masked")
    filled = tried(page, "fill", ["the [MASK] of bread"], "Fill")
    assert re.match(r"\d+(\.\d)?%", filled.inner_text())
    assert filled.locator("li").count() == 5
    tagged = tried(page, "tag", ["the river of bread"], "Tag")
    assert tagged.locator("mark").count() >= 1
    assert re.sub(r"(water|food|O)", "", tagged.locator(".tagged").inner_text()).split() == [
        "the",
        "river",
        "of",
        "bread",
    ]
    assert tried(page, "classify", ["the river"], "Classify").locator("li").count() == 3
    assert tried(page, "answer", ["bread of the night", "the river"], "Answer").inner_text()
    near = tried(page, "similar", ["one two\n\ntveir\nx", "one two"], "Search")
    first = near.locator("li").first.inner_text().split()
    assert (float(first[0]), first[1:]) == (pytest.approx(1.0, abs=1e-3), ["one", "two"])
    assert page.wrong == []
    assert {httpx.URL(url).netloc for url in page.asked} == {httpx.URL(server.url).netloc}


def test_tags_stand_where_they_belong_beyond_the_basic_plane(server, page):
    page.goto(server.url)
    tagged = tried(page, "tag", ["🙂🙂 river, 👍🏽 bread"], "Tag")
    marks = tagged.locator("mark").evaluate_all("all => all.map(one => one.firstChild.textContent)")
    assert marks
    assert not any("\ufffd" in mark or mark != mark.strip() for mark in marks)


def test_an_example_shows_what_search_is_and_a_reranker_ranks_a_list_too(server, page):
    page.goto(server.url)
    section = page.locator("#similar")
    section.get_by_role("button", name="Show an example").click()
    texts = section.locator("textarea").input_value().splitlines()
    query = section.locator("input").input_value()
    assert len(texts) == 10
    found = {}
    for model in ("small", "ranker"):
        section.locator("select").select_option(model)
        found[model] = tried(page, "similar", ["\n".join(texts), query], "Search").locator("li").all_inner_texts()
    ranks = httpx.post(server.url + "/rerank", json={"query": query, "texts": texts, "model": "ranker"}).json()
    assert found["ranker"] == [f"{one['score']:.3f}\n{texts[one['index']]}" for one in ranks]
    assert sorted(line.split("\n")[1] for line in found["small"]) == sorted(texts)
    assert page.wrong == []


def test_scripts_that_run_right_to_left_are_shown_so(server, page):
    page.goto(server.url)
    near = tried(page, "similar", ["שלום עולם\nمرحبا بالعالم\none", "שלום"], "Search")
    ways = near.locator("li [dir=auto]").evaluate_all(
        "all => Object.fromEntries(all.map(one => [one.textContent, getComputedStyle(one).direction]))"
    )
    assert ways == {"שלום עולם": "rtl", "مرحبا بالعالم": "rtl", "one": "ltr"}


def test_markup_in_a_text_stays_text(server, page):
    page.goto(server.url)
    near = tried(page, "similar", ["<img src=x onerror=alert(1)>\nx", "<b>x</b>"], "Search")
    assert near.locator("img, b").count() == 0
    assert "<img src=x" in near.inner_text()
    assert page.wrong == []


def test_an_error_is_shown_where_it_was_asked(server, page):
    page.goto(server.url)
    page.locator("#fill select").select_option("masked")
    found = tried(page, "fill", ["no mask here"], "Fill")
    assert "has no [MASK], which is how this model writes a mask" in found.locator(".wrong").inner_text()
    page.locator("#fill").get_by_role("button", name="Insert a mask").click()
    assert page.locator("#fill textarea").input_value().endswith("[MASK]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_and_words_can_be_read_in_both_schemes(server, browser, scheme, tmp_path):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.goto(server.url)
    page.get_by_text("What is loaded", exact=True).wait_for()
    tried(page, "tag", ["the river of bread " * 3], "Tag")
    tried(page, "similar", ["longwordwithoutaspace" * 9 + "\nx", "x"], "Search")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    sizes = page.locator("button:visible, select:visible").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 36
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert (light[0] > 600 > 200 > light[1]) if scheme == "light" else (light[0] < 120 < 600 < light[1])
    page.screenshot(path=tmp_path / f"phone-{scheme}.png", full_page=True)
    page.close()


def test_a_server_with_keys_shows_nothing_before_one_is_given(guarded, page):
    page.goto(guarded.url)
    page.get_by_text("This server asks for a key").wait_for()
    assert not page.locator("#loaded").is_visible()
    page.locator("#key").fill("not it")
    page.get_by_role("button", name="Use it").click()
    page.get_by_text("that key is not one of this server's").wait_for()
    page.locator("#key").fill("second-key")
    page.get_by_role("button", name="Use it").click()
    page.get_by_text("What is loaded", exact=True).wait_for()
    assert tried(page, "similar", ["a\nb", "a"], "Search").locator("li").count() == 2


def test_the_page_may_load_and_send_nothing_elsewhere(server):
    answer = httpx.get(server.url)
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"].startswith("'sha256-")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=\"(?!/)|https?://|@import|url\(", answer.text)


def test_the_list_of_routes_is_a_page_that_opens(server, page):
    page.goto(server.url + "/docs")
    assert page.get_by_text("POST /v1/embeddings").is_visible()
    assert page.wrong == []
