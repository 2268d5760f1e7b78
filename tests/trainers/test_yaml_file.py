"""Files are read without constructing anything, and edits change what they name and not a byte more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.errors import ConfigurationError, UserError
from rightrank.trainers import yaml_edit, yaml_file
from rightrank.trainers.keys import Keys

if TYPE_CHECKING:
    from pathlib import Path

FILE = """\
# top

base: 'org/m'   # the base
lora_r: 32      # wide
rate: 2e-4
empty:
modules:
  - q_proj   # first
  - v_proj

# about the group
group:
    scale: 20.0
    keys: ["a", 'b']
data:
  - path: rows.jsonl   # mine
    type: chat
flow: {rank: 8, scale: 20}
last: true"""


def edit(text: str, changes: dict[Any, Any]) -> tuple[str, Any]:
    return yaml_file.edited(yaml_file.parse(text, "c.yml"), changes)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("place", "value", "before", "after"),
    [
        ("lora_r", 16, "lora_r: 32      # wide", "lora_r: 16      # wide"),
        ("rate", 3e-5, "rate: 2e-4", "rate: 3.0e-05"),
        ("base", "my org/x", "base: 'org/m'   # the base", 'base: "my org/x"   # the base'),
        ("empty", 3, "empty:", "empty: 3"),
        (("group", "scale"), 2.0, "    scale: 20.0", "    scale: 2.0"),
        (("group", "keys"), ["c"], "    keys: [\"a\", 'b']", "    keys: [c]"),
        (("data", 0, "path"), "o.jsonl", "  - path: rows.jsonl   # mine", "  - path: o.jsonl   # mine"),
        (("flow", "scale"), 4.0, "flow: {rank: 8, scale: 20}", "flow: {rank: 8, scale: 4.0}"),
        (("flow", "scale"), None, "flow: {rank: 8, scale: 20}", "flow: {rank: 8}"),
        (("flow", "rank"), None, "flow: {rank: 8, scale: 20}", "flow: {scale: 20}"),
        (("flow", "drop"), 0.5, "flow: {rank: 8, scale: 20}", "flow: {rank: 8, scale: 20, drop: 0.5}"),
        ("last", False, "last: true", "last: false"),
    ],
)
def test_one_line_changes(place: Any, value: Any, before: str, after: str, newline: str) -> None:
    text = FILE.replace("\n", newline)
    found, changes = edit(text, {place: value})
    assert found == text.replace(before, after, 1) and found != text
    assert len(changes) == 1


def test_lists_keep_their_shape_and_what_follows_them() -> None:
    found, _ = edit(FILE, {"modules": ["q_proj", "o_proj", "up_proj"]})
    assert "modules:\n  - q_proj\n  - o_proj\n  - up_proj\n\n# about the group\ngroup:" in found


def test_keys_come_and_go_with_their_lines() -> None:
    found, changes = edit(FILE, {"rate": 1e-3, "alpha": 32, "base": None, "end": "x", ("new", "rank"): 4})
    assert (
        "lora_r: 32      # wide\nrate: 0.001\nalpha: 32\nend: x\nnew:\n  rank: 4\nempty:" in found
        and "base:" not in found
    )
    assert changes[1:3] == (("alpha", None, "32"), ("base", "org/m", None))


def test_what_has_its_value_stays_as_it_is_written() -> None:
    same = {"lora_r": 32.0, "rate": 0.0002, "modules": ("q_proj", "v_proj"), "gone": None, "last": True}
    assert edit(FILE, same) == (FILE, ())


def test_json_stays_json() -> None:
    text = '{\n  "r": 8,\n  "alpha": 16,\n  "modules": ["q"],\n  "base": "x"\n}\n'
    found, _ = edit(text, {"r": 4, "modules": ["q", "v"], "base": "on", "dropout": 0.1, "alpha": None})
    assert json.loads(found) == {"r": 4, "modules": ["q", "v"], "base": "on", "dropout": 0.1}
    assert found.count("\n") == text.count("\n")


PLACES = [
    *("lora_r", "empty", "modules", "last", "new", ("flow", "rank")),
    *(("group", "scale"), ("group", "more"), ("data", 0, "type")),
]
PLAIN = st.one_of(
    st.sampled_from(
        [
            ".0",
            ".5e3",
            "./x",
            "1e3",
            "0x1f",
            "~",
            "null",
            "Yes",
            "=",
            "<<",
            "1:30",
            "2001-01-01",
            "-",
            "a: b",
            "#a",
        ]
    ),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)),
    st.lists(st.text("abc_.", min_size=1, max_size=6), min_size=1, max_size=4),
)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PLACES),
    PLAIN,
)
def test_any_value_arrives_and_nothing_else_moves(place: Any, value: Any) -> None:
    found, _ = edit(FILE, {place: value})
    path = (place,) if isinstance(place, str) else place
    for version in (found, edit(FILE.replace("\n", "\r\n"), {place: value})[0]):
        assert yaml_edit.same(yaml_edit.value_at(yaml.safe_load(version), path), value)
    assert type(yaml_edit.value_at(yaml.safe_load(found), path)) is type(value)
    gone = [line for line in FILE.split("\n") if line not in found.split("\n")]
    assert len(gone) <= (3 if place == "modules" else 1)
    for comment in ("# top", "# the base", "# about the group", "# mine"):
        assert comment in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: !!python/object/apply:os.system ['true']", "never followed"),
        ("a: !x 1", "never followed"),
        ("a: &a [1, *a]", "refers to itself"),
        ("a: 1\na: 2", "line 2: a stands there twice"),
        ("a: [1", "this is no YAML"),
        ("- a", "names no settings"),
        ("", "names no settings"),
        ("a: 1\n---\nb: 2", "this is no YAML"),
        ("1: 2", "keys are no names"),
        ("a: \x07", "cannot be read"),
        ("a: 2001-99-99", "no plain number"),
        ("[" * 5_000, "cannot be read"),
        ("a: " + "9" * 10_000, "no plain number"),
        (
            "\n".join(["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]),
            "stands for more than",
        ),
    ],
)
def test_what_is_no_plain_config_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        yaml_file.parse(text, "c.yml")
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    big, binary = tmp_path / "big.yml", tmp_path / "b.yml"
    big.write_bytes(b"a: 1\n" * 200_000)
    binary.write_bytes(b"a: \xff\xfe")
    for path, says in (
        (big, "256 KB"),
        (binary, "UTF-8"),
        (tmp_path / "none.yml", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(UserError, match=says):
            yaml_file.read(path)


def test_a_value_that_is_shared_is_not_edited() -> None:
    text = "base: &r {rank: 8}\none: *r\ntwo: *r\n"
    with pytest.raises(UserError, match="anchor"):
        edit(text, {("one", "rank"): 4})
    merged = "defaults: &d {rank: 8}\none:\n  <<: *d\n  x: 1\n"
    found, _ = edit(merged, {("one", "rank"): 4})
    assert yaml.safe_load(found)["one"] == {"rank": 4, "x": 1} and found.startswith(merged)


def test_keys_that_nobody_asked_for_are_unread() -> None:
    keys = Keys(yaml_file.parse(FILE, "c.yml").values, "c.yml")
    assert keys.number("rate") == 2e-4 and keys.whole("lora_r") == 32 and keys.flag("last") is True
    assert keys.names("modules") == ("q_proj", "v_proj") and keys.text("empty") is None
    assert keys.part("group").number("scale") == 20.0 and keys.parts("data")[0].text("path") == "rows.jsonl"
    assert keys.unread() == ("base", "flow", "group.keys", "data.0.type")
    for ask in (
        lambda: keys.number("base"),
        lambda: keys.whole("modules"),
        lambda: keys.flag("base"),
        lambda: keys.part("base"),
        lambda: keys.parts("flow"),
        lambda: keys.names("flow"),
        lambda: keys.text("flow"),
    ):
        with pytest.raises(UserError, match=r"c\.yml: \w+ is "):
            ask()


def test_a_misspelt_key_is_taken_for_what_it_may_mean() -> None:
    keys = Keys({"lora_rank": 8, "learning_rat": 1e-3, "hub_model_id": "x", "group": {"scal": 2}}, "c.yml")
    keys.whole("lora_r")
    keys.number("learning_rate")
    keys.text("model_id")
    keys.part("group").number("scale")
    assert keys.unread() == (
        "lora_rank (did you mean lora_r?)",
        "learning_rat (did you mean learning_rate?)",
        "hub_model_id",
        "group.scal (did you mean scale?)",
    )


def test_where_the_key_is_there_another_is_no_misspelling_of_it() -> None:
    keys = Keys({"lora_r": 8, "lora_rank": 8, "adam_beta3": 0.9}, "c.yml")
    keys.whole("lora_r")
    keys.number("adam_beta2")
    assert keys.unread() == ("lora_rank", "adam_beta3")


def test_nesting_has_an_end() -> None:
    deepest = yaml_file.DEEPEST - 1
    assert yaml_file.parse("a: " + "[" * deepest + "]" * deepest, "c.yml").values
    with pytest.raises(UserError, match="nested more than 100 levels deep"):
        yaml_file.parse("a: " + "[" * (deepest + 1) + "]" * (deepest + 1), "c.yml")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("unsloth_sft.py", "a Python program"), ("a.ipynb", "a notebook"), ("run.sh", "a shell script")],
)
def test_a_program_is_named_as_one_and_never_run(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text("open('it-ran', 'w')")
    with pytest.raises(ConfigurationError) as caught:
        yaml_file.read(tmp_path / name)
    assert caught.value.problem == f"{name} is {kind}, whose settings could only be had by running it."
    assert "YAML or JSON" in caught.value.mend and "--yours R,ALPHA,LR" in caught.value.mend
