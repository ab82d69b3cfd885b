"""What may stand in the manifest of model files, and what is refused with which words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.errors import InvalidRequest
from core.model_files.entries import Rules, check_entry, check_nesting
from core.model_files.sources import Source, parse_source
from core.records.model_file import ModelFile

HASH = "0123456789abcdef" * 4
ENTRY = ModelFile(path="checkpoints/x.safetensors", source="https://models.example/x", sha256=HASH)
HUB = "hf://owner/name@main/folder/x.safetensors"


@pytest.mark.parametrize(
    "path",
    [
        "checkpoints/x.safetensors",
        "loras/style/Größe 7.SafeTensors",
        "unet/a.gguf",
        "text_encoders/模型.sft",
        "ipadapter/a..b.safetensors",
    ],
)
def test_paths_of_models_are_taken(path: str) -> None:
    check_entry(replace(ENTRY, path=path), Rules())


@pytest.mark.parametrize(
    "path",
    [
        *("x.safetensors", "/x.safetensors", "checkpoints//x.safetensors", "checkpoints/../x.safetensors"),
        *("../x.safetensors", "checkpoints/./x.safetensors", "checkpoints/.x.safetensors", ".hidden/x.safetensors"),
        *("checkpoints\\x.safetensors", "C:/x.safetensors", "checkpoints/x\0.safetensors", "a/b\n.safetensors"),
        *("checkpoints/ x.safetensors", "checkpoints/\ud800.safetensors", "custom_nodes/x.safetensors"),
        *("configs/x.safetensors", "checkpoints/x.yaml", "checkpoints/x", "checkpoints/" + "x" * 201 + ".sft"),
        "checkpoints/" + "y/" * 200 + "x.sft",
    ],
)
def test_paths_that_lead_elsewhere_or_are_no_models_are_refused(path: str) -> None:
    with pytest.raises(InvalidRequest):
        check_entry(replace(ENTRY, path=path), Rules(allow_code=True))


@pytest.mark.parametrize(
    ("entered", "known"),
    [
        (["loras/a.sft/b.sft"], ["loras/a.sft"]),
        (["loras/a.sft"], ["loras/a.sft/c/b.sft"]),
        (["loras/x.sft", "loras/a.sft/c/b.sft", "loras/a.sft"], []),
    ],
)
def test_no_path_lies_below_a_file(entered: list[str], known: list[str]) -> None:
    with pytest.raises(InvalidRequest, match=r"a\.sft/(c/)?b\.sft' would lie below 'loras/a\.sft', which is a file"):
        check_nesting(entered, known)


def test_paths_below_folders_are_taken_and_what_was_there_before_stands_in_nobodys_way() -> None:
    check_nesting(["loras/a.sft", "loras/a.sft2/b.sft", "checkpoints/a.sft/b.sft"], ["loras/b.sft", "loras/c/d.sft"])
    check_nesting(["loras/b.sft"], ["loras/a.sft", "loras/a.sft/b.sft"])


@pytest.mark.parametrize("ending", ["ckpt", "pt", "PTH", "bin", "pkl"])
def test_what_can_run_code_is_an_operators_choice(ending: str) -> None:
    entry = replace(ENTRY, path=f"checkpoints/x.{ending}")
    with pytest.raises(InvalidRequest, match="COMFYLINE_MODELS_ALLOW_CODE=true"):
        check_entry(entry, Rules())
    check_entry(entry, Rules(allow_code=True))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "https://host/file"),
        ("/etc/passwd", "https://host/file"),
        ("file:///etc/passwd", "https://host/file"),
        ("http://models.example/x", "COMFYLINE_MODELS_ALLOW_HTTP=true"),
        ("https://user:password@models.example/x", "token"),
        ("https://models.example/x?token=abc", "token"),
        ("https://models.example/x?X-Amz-Signature=abc", "token"),
        ("https://models.example/x?api_key", "token"),
        ("https://models.example", "a host and a file"),
        ("https:///x", "a host and a file"),
        ("https://[::1/x", "no URL that can be read"),
        ("https://models.example:x/x", "no URL that can be read"),
        ("https://models.example/a b", "without blanks"),
        ("https://models.example/" + "x" * 2048, "2048"),
        ("s3://bucket", "https://host/file"),
        ("hf://owner/name/file.safetensors", "https://host/file"),
        ("hf://a/b/c@main/x", "https://host/file"),
    ],
)
def test_sources_that_are_none_are_refused(source: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match="checkpoints/x") as caught:
        check_entry(replace(ENTRY, source=source), Rules())
    assert words in caught.value.message


def test_what_sources_mean() -> None:
    assert parse_source("http://a.example/x?version=1", allow_http=True) == Source(
        kind="http", name="http://a.example/x?version=1"
    )
    assert parse_source("s3://models/sd/x.safetensors", allow_http=False) == Source(
        kind="s3", container="models", name="sd/x.safetensors"
    )
    hub = parse_source("hf://owner/name@refs%2Fpr%2F1/sub dir/x.safetensors".replace(" ", "_"), allow_http=False)
    assert hub == Source(kind="hub", container="owner/name", revision="refs%2Fpr%2F1", name="sub_dir/x.safetensors")
    hub = parse_source(HUB, allow_http=False)
    assert hub.hub_url("https://hub.example/") == "https://hub.example/owner/name/resolve/main/folder/x.safetensors"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": None}, "sha256 is missing"),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"tags": ("a b",)}, "tags"),
        ({"pools": ("",)}, "pools"),
        ({"pools": ("p",) * 33}, "at most 32"),
        ({"token": "a=b"}, "token"),
        ({"token": "t", "source": "s3://bucket/key"}, "credentials of AWS"),
    ],
)
def test_other_fields(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_entry(replace(ENTRY, **changes), Rules())  # type: ignore[arg-type]
    assert words in caught.value.message


def test_a_hub_says_the_hash_itself() -> None:
    check_entry(replace(ENTRY, source=HUB, sha256=None), Rules())
