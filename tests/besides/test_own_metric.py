"""The person's own command: how it is started, what counts as its number, and what its numbers say of the choice."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING

import pytest

from rightrank.besides.own_metric import LONGEST_SECONDS, Command, MetricError, judged, patience
from rightrank.besides.results import OwnValue
from rightrank.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def python(code: str) -> Command:
    return Command.of(shlex.join([sys.executable, "-S", "-c", code]))


def measured(code: str, directory: Path, **options: object) -> float:
    return python(code).measure(directory, **{"longest_seconds": 30.0, **options})  # type: ignore[arg-type]


def test_the_directory_is_the_last_argument_and_the_last_line_is_the_number(tmp_path: Path) -> None:
    code = "import sys; print('loading 7'); print(9, file=sys.stderr); print(3); print(-2.5e-1); print()"
    assert measured(code, tmp_path) == -0.25
    assert measured(f"import sys; print(int(sys.argv[1] == {str(tmp_path)!r}))", tmp_path) == 1.0


def test_a_relative_directory_is_given_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path as RealPath

    monkeypatch.chdir(tmp_path)
    code = "import os, sys; print(int(os.path.isabs(sys.argv[1])))"
    assert measured(code, RealPath("adapters/0")) == 1.0


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    words = f"'{sys.executable}' -S -c 'import sys; print(len(sys.argv))' '$(touch {trap})' ';' touch {trap} '>' x"
    assert Command.of(words).measure(tmp_path, longest_seconds=30) == 8.0
    assert not trap.exists()


def test_it_reads_nothing_and_writes_to_stderr_only_where_that_is_wanted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; print(len(sys.stdin.read())); print('a row of the data', file=sys.stderr)"
    assert measured(code, tmp_path) == 0.0
    assert capfd.readouterr().err == ""
    assert measured(code, tmp_path, show_stderr=True) == 0.0
    assert "a row of the data" in capfd.readouterr().err


def test_a_flood_is_not_held_in_memory_and_ends_in_its_number(tmp_path: Path) -> None:
    code = "import sys\nfor _ in range(200): sys.stdout.write('x' * 100_000 + '\\n')\nprint(0.5)"
    assert measured(code, tmp_path) == 0.5


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print(1); raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.abort()", "was ended by signal 6"),
        ("print('0.5 accuracy')", "printed no number on its last line"),
        ("print(0.5); print('done')", "printed no number on its last line"),
        ("print('1_0')", "printed no number"),
        ("pass", "printed no number"),
        ("print(float('nan'))", "printed nan, which is no finite number"),
        ("print('-Infinity')", "printed -inf"),
        ("print(-1e200)", "printed -1e+200, which is too large to be compared"),
    ],
)
def test_what_is_no_number_is_one_sentence(code: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(MetricError) as caught:
        measured(code, tmp_path)
    assert words in caught.value.problem and caught.value.problem.startswith("Your own measure ")
    assert "one number" in caught.value.mend and len(caught.value.problem) < 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no command"),
        ("python 'eval.py", "cannot be split into words: no closing quotation"),
        ("no-such-program-here eval.py", "is no program here"),
        ("cat \0", "holds a zero byte"),
    ],
)
def test_a_command_that_cannot_be_started_is_refused_beforehand(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Command.of(text)
    assert words in caught.value.problem


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(3600)"
    code = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-S', '-c', {child!r}])\n"
        f"while not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.01)\n"
        "time.sleep(3600)"
    )
    with pytest.raises(MetricError, match=r"took longer than 1\.5 s"):
        measured(code, tmp_path, longest_seconds=1.5)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if not alive(pid):
            return
        time.sleep(0.01)
    raise AssertionError("its child lives on")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
    except OSError:
        os.kill(pid, 0)
        return True


def test_patience_follows_the_first_time() -> None:
    assert patience(0.1) == 60.0 and patience(30.0) == 300.0 and patience(1e6) == LONGEST_SECONDS


# --- what the numbers say ----------------------------------------------------------------------------------------------------------


def value(rank: int, number: float | None, *roles: str, seed: int = 0) -> OwnValue:
    return OwnValue(rank, 16.0, 1e-3, seed, roles, number)  # type: ignore[arg-type]


def verdict(base: float, *values: OwnValue) -> tuple[str, str]:
    found = judged("cmd", base, 100, values)
    assert found.values == values and found.base == base
    return found.verdict, found.sentence


def test_one_number_each_cannot_tell_chance_from_difference() -> None:
    said, sentence = verdict(0.2, value(8, 0.5, "chosen"), value(64, 0.6, "best"))
    assert said == "may be chance"
    assert sentence == (
        "Your own measure would choose otherwise: 0.6 for r=64 lr 1e-3, 0.5 for r=8 lr 1e-3, which the loss chooses"
        " (one number each: this may be chance)."
    )


def test_repeats_that_differ_less_certify_a_disagreement_and_those_that_differ_more_do_not() -> None:
    # Pooled over both: standard deviation s on 2 degrees of freedom; two means of two differ with standard error s; t = 4.303.
    close = [
        value(8, 0.50, "chosen"),
        value(8, 0.51, seed=1),
        value(64, 0.60, "best"),
        value(64, 0.61, seed=1),
    ]
    said, sentence = verdict(0.2, *close)
    assert said == "disagrees" and "0.605 for r=64" in sentence and "more than repeats differ" in sentence
    wide = [
        value(8, 0.50, "chosen"),
        value(8, 0.54, seed=1),
        value(64, 0.60, "best"),
        value(64, 0.64, seed=1),
    ]
    said, sentence = verdict(0.2, *wide)  # s = 0.0283, so 0.122 is needed and 0.1 is there
    assert said == "agrees" and "repeats differ as much" in sentence


def test_more_rivals_need_more_evidence() -> None:
    """Standard deviation and standard error 0.02 on two degrees of freedom, a difference of 0.1: t is 5. At 95 % one rival needs 4.30,
    three need 7.65."""
    half = 0.02 / 2**0.5
    pair = [
        value(8, 0.5 - half, "chosen"),
        value(8, 0.5 + half, seed=1),
        value(64, 0.6 - half, "best"),
        value(64, 0.6 + half, seed=1),
    ]
    assert verdict(0.2, *pair)[0] == "disagrees"
    others = [value(16, 0.4, "smallest"), value(4, 0.4, "yours")]
    assert verdict(0.2, *pair, *others)[0] == "agrees"


def test_within_one_percent_of_the_gain_is_no_difference() -> None:
    assert verdict(0.0, value(8, 0.991, "chosen"), value(64, 1.0, "best"))[0] == "agrees"
    assert verdict(0.0, value(8, 0.989, "chosen"), value(64, 1.0, "best"))[0] == "may be chance"
    assert verdict(0.2, value(8, 0.7, "chosen", "best"), value(64, 0.6, "rival")) == (
        "agrees",
        "Your own measure agrees: 0.7 for the chosen setting, 0.2 without training.",
    )


def test_training_that_does_not_help_by_the_own_measure_is_said() -> None:
    said, sentence = verdict(0.7, value(8, 0.5, "chosen"), value(64, 0.6, "best"))
    assert (
        said == "no gain"
        and "0.7 without it, 0.6 at best (r=64 lr 1e-3)" in sentence
        and "chance" in sentence
    )
    assert judged("c", 0.7, 1, [value(8, 0.5, "chosen"), value(64, 0.6, "best")]).comes_first


def test_failures_and_lone_numbers_decide_nothing() -> None:
    said, sentence = verdict(0.2, value(8, None, "chosen"), value(64, 0.6, "best"))
    assert said == "not measured" and sentence.endswith("gave no number for the chosen setting.")
    said, sentence = verdict(0.2, value(64, 0.6, "best"))
    assert said == "not measured" and "it was trained on fewer rows than the others" in sentence
    said, sentence = verdict(0.2, value(8, 0.5, "chosen"), value(64, None, "best"))
    assert said == "not measured" and "one setting only: 0.5" in sentence
