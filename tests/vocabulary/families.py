"""Small tokenizers of each family, trained on real text in ten scripts, and small models with each head over them."""

import json
import os
from functools import cache
from pathlib import Path

import torch
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import (
    Tokenizer as Inner,
)

from tessera.huggingface import hub, transformers_model
from tessera.huggingface.task_heads import TaskModel
from tessera.huggingface.task_heads import initialize as draw_head
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.task_config import TaskConfig
from tessera.plan.architecture import PRESETS, EncoderConfig

LOCALES = {
    "deu_Latn": "de", "rus_Cyrl": "ru", "ell_Grek": "el", "arb_Arab": "ar", "hin_Deva": "hi",
    "tam_Taml": "ta", "tha_Thai": "th", "kor_Hang": "ko", "jpn_Jpan": "ja", "kat_Geor": "ka",
}  # fmt: skip
NEW = {"hye_Armn": "hy", "cym_Latn": "cy"}  # which no tokenizer here was trained on
KEPT = ("deu_Latn", "rus_Cyrl", "hin_Deva")
SIZE = 1_500
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
_WORD += r"|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def texts(new: bool = False) -> dict[str, list[str]]:
    """Django's messages: language and script -> texts; of those in ten scripts, or of the new ones."""
    import django
    import polib

    found = {}
    for language, locale in (NEW if new else LOCALES).items():
        place = Path(os.path.dirname(django.__file__), "conf", "locale", locale, "LC_MESSAGES", "django.po")
        some = [entry.msgstr or entry.msgstr_plural.get(0, "") for entry in polib.pofile(str(place))]
        found[language] = [" ".join(text.split()) for text in some if len(text) > 3]
    return found


def every_text() -> list[str]:
    return [text for some in texts().values() for text in some]


# ------------------------------------------------------------------------------------------------------ the tokenizers


def _train(inner: Inner, trainer: object) -> None:
    inner.train_from_iterator(every_text(), trainer)


def _bytes(pattern: str | None, special: list[str]) -> Inner:
    inner = Inner(models.BPE())
    if pattern is None:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(
        inner,
        trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return inner


def gpt2() -> tuple[Inner, dict[str, str]]:
    """Byte-level BPE by GPT-2's pattern; the begin and end in the vocabulary, the mask added after it."""
    inner = _bytes(None, ["<s>", "<pad>", "</s>"])
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    ids = {name: inner.token_to_id(name) for name in ("<s>", "</s>")}
    inner.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    return inner, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}


def llama3() -> tuple[Inner, dict[str, str]]:
    """Byte-level BPE with ignore_merges, every way to make a token among the merges, special tokens after it."""
    base = json.loads(_bytes(_WORD, []).to_str())
    vocab = base["model"]["vocab"]
    ways = [(vocab[t], t[:n], t[n:]) for t in vocab for n in range(1, len(t)) if t[:n] in vocab and t[n:] in vocab]
    base["model"] |= {"merges": [[a, b] for _, a, b in sorted(ways)], "ignore_merges": True}
    inner = Inner.from_str(json.dumps(base))
    names = ["<|begin|>", "<|end|>", "<|reserved_0|>", "<|mask|>", "<|pad|>"]
    inner.add_special_tokens(names)
    inner.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), _template("<|begin|> $A <|end|>", inner, "<|begin|>", "<|end|>")]
    )
    return inner, dict(
        zip(("bos_token", "eos_token", "mask_token", "pad_token"), [*names[:2], *names[3:]], strict=True)
    )


def qwen() -> tuple[Inner, dict[str, str]]:
    """Byte-level BPE behind NFC, with added tokens that are not special."""
    inner = _bytes(_WORD, [])
    inner.normalizer = normalizers.NFC()
    inner.add_special_tokens(["<|endoftext|>", "<|mask|>"])
    inner.add_tokens([AddedToken("<think>", normalized=False)])
    inner.post_processor = _template("<|endoftext|> $A <|endoftext|>", inner, "<|endoftext|>")
    return inner, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "mask_token": "<|mask|>"}


def gemma() -> tuple[Inner, dict[str, str]]:
    """BPE of characters with bytes to fall back on; spaces are letters, and the whole text is one word."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [f"<0x{n:02X}>" for n in range(256)]
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    _train(inner, trainers.BpeTrainer(vocab_size=SIZE, special_tokens=[*special, *pieces], show_progress=False))
    made = json.loads(inner.to_str())
    made["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in special]
    inner = Inner.from_str(json.dumps(made))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_tokens([AddedToken("▁▁", normalized=False), AddedToken("\n\n", normalized=False)])
    inner.post_processor = _template("<bos> $A <eos>", inner, "<bos>", "<eos>")
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return inner, {**named, "unk_token": "<unk>"}


def xlmr() -> tuple[Inner, dict[str, str]]:
    """Unigram, the mask at its end."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    inner = Inner(models.Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    inner.decoder = decoders.Metaspace()
    _train(
        inner,
        trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    inner.post_processor = _template("<s> $A </s>", inner, "<s>", "</s>")
    named = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    return inner, {**named, "mask_token": "<mask>", "pad_token": "<pad>"}


def bert() -> tuple[Inner, dict[str, str]]:
    """WordPiece, cased."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner = Inner(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    _train(inner, trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False))
    ids = {name: inner.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    inner.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
    return inner, {**named, "unk_token": "[UNK]"}


def _template(single: str, inner: Inner, *names: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=single, special_tokens=[(t, inner.token_to_id(t)) for t in names])


FAMILIES = {"gpt2": gpt2, "llama3": llama3, "qwen": qwen, "gemma": gemma, "xlmr": xlmr, "bert": bert}
_made: dict[str, tuple[Inner, dict[str, str]]] = {}


def write_tokenizer(family: str, folder: Path) -> Path:
    """tokenizer.json and tokenizer_config.json, as a released folder has them."""
    if family not in _made:
        _made[family] = FAMILIES[family]()
    inner, roles = _made[family]
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    added = {str(i): {"content": t.content, "special": t.special} for i, t in inner.get_added_tokens_decoder().items()}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "added_tokens_decoder": added}))
    return folder


# ---------------------------------------------------------------------------------------------------------- the models

_SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
_OURS = {
    "mmbert": ("mmbert-small", {"num_key_value_heads": 4, "global_attn_every_n_layers": 3, "local_attention": 16}),
    "eurobert": ("eurobert-210m", {"num_key_value_heads": 2}),
}


def write_ours(folder: Path, family: str, model: str = "mmbert", task: TaskConfig | None = None, **more) -> Path:
    """A random model of one of our families over a tokenizer, with the head of a masked LM or of a task."""
    from tessera.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(write_tokenizer(family, folder.parent / f"{folder.name}-tokenizer"))
    preset, fields = _OURS[model]
    ids = {
        "pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id, "mask_token_id": tokenizer.mask_id,
    }  # fmt: skip
    shape = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 512, **_SHAPE, **ids, **fields, **more}
    config = EncoderConfig.model_validate({**PRESETS[preset].model_dump(), **shape})
    generator = torch.Generator().manual_seed(0)
    whole = MaskedLM(config)
    initialize(whole, generator)
    if whole.decoder_bias is not None:
        whole.decoder_bias.data.normal_(generator=generator)
    made: MaskedLM | TaskModel = whole
    if task is not None:
        made = TaskModel.of(config, task, "mean")
        made.encoder.load_state_dict(whole.encoder.state_dict())
        draw_head(made.head, config, generator)
    hub.save(made, folder, tokenizer.folder)
    return folder


def write_theirs(folder: Path, family: str, name: str, **more) -> Path:
    """A random model of another family, as transformers writes it: BertForMaskedLM, XLMRobertaModel ..."""
    import transformers

    from tessera.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(write_tokenizer(family, folder))
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36,
             "max_position_embeddings": 515}  # fmt: skip
    config = getattr(transformers, name.partition("For")[0].removesuffix("Model") + "Config")(
        vocab_size=tokenizer.vocab_size + 3, pad_token_id=tokenizer.pad_id, **{**shape, **more}
    )
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.3)
    with transformers_model.quietly():
        model.save_pretrained(folder)
    return folder
