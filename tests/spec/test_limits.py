"""Whatever a file holds, it is read or refused in two seconds, by limits that are told."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from raycl.catalog import catalog
from raycl.errors import SpecError
from raycl.spec import problems, rules, sweep_file
from raycl.spec.blocks import Blocks
from raycl.spec.source import MAX_CHARACTERS, MAX_PROBLEMS, MAX_VALUES
from raycl.spec.sweep import SweepSpec

pytestmark = pytest.mark.alone

SECONDS = 2.0
BASE = "name: a\nstream: {name: split, dataset: digits, tasks: 5}\nmodel: {name: mlp, hidden: [10]}\n"
END = "search: {trials: 5}\nfinal: {seeds: [10]}\n"
NAIVE = "strategies: {naive: {}}\n" + END


def keys(count: int, value: str = "1", indent: str = "") -> str:
    return "".join(f"{indent}k{index}: {value}\n" for index in range(count))


def methods(count: int, name: str = "naive") -> str:
    return "strategies:\n" + "".join(f"  n{index}: {{strategy: {name}}}\n" for index in range(count))


def aliases(levels: int) -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


SPACE = "learning_rate: {loguniform: [1e-4, 1e-2]}, optimizer: {choice: [sgd, rmsprop]}, " + (
    "batch_size: {choice: [2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80]}"
)
VARIANTS = "variants:\n" + "".join(f"  v{i}: {{memory.capacity: {i + 100}}}\n" for i in range(33))
HOSTILE = {
    "many unknown keys": (BASE + NAIVE + keys(50_000), f"may hold at most {MAX_CHARACTERS:,} characters"),
    "as many as fit": (BASE + NAIVE + keys(2_400), f"has more problems than these {MAX_PROBLEMS}"),
    "in a block": (BASE + "training:\n" + keys(2_400, indent="  ") + NAIVE, "training.k0: unknown key"),
    "of a method": (
        BASE + "strategies:\n  naive:\n" + keys(2_400, indent="    ") + END,
        "strategies.naive.k0: unknown",
    ),
    "unknown and searched": (
        BASE + "strategies:\n  naive:\n" + keys(700, "{uniform: [0, 1]}", "    ") + END,
        "at most 64 values of a method may be searched",
    ),
    "one alias, many times": ("a: &x 1\nb: [" + ", ".join(["*x"] * 30_000) + "]\n", f"at most {MAX_VALUES:,} keys"),
    "aliases of aliases": (aliases(12), f"at most {MAX_VALUES:,} keys and values"),
    "anchors": ("a: [" + ", ".join(f"&a{i} 1" for i in range(9_000)) + "]", f"at most {MAX_VALUES:,} keys"),
    "deep lists": ("a: " + "[" * 50_000, "nested too deeply, more than 32"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(300)), "nested too deeply, more than 32"),
    "many methods": (BASE + methods(1_200) + END, "strategies times variants may give at most 300 entries"),
    "many variants": (BASE + methods(31) + END + VARIANTS, "may give at most 300 entries (got 31 x 33)"),
    "many points": (BASE + f"training: {{{SPACE}}}\n" + methods(9) + END + VARIANTS, "4,000 ends in all"),
    "many choices": (
        BASE + "training: {batch_size: {choice: [" + ", ".join(map(str, range(1, 1_002))) + "]}}\n" + NAIVE,
        "may hold at most 1000 values (got 1001)",
    ),
    "many seeds": (
        BASE + "strategies: {naive: {}}\nfinal: {seeds: [" + ", ".join(map(str, range(4_000))) + "]}\n",
        "must hold at most 1000 items",
    ),
    "no numbers": (
        BASE + "strategies: {naive: {}}\nfinal: {seeds: [" + ", ".join(["x"] * 4_000) + "]}\n",
        "final.seeds.99: must be a whole number (got 'x')",
    ),
    "a long word": ("a: " + "x" * 130_000, "a: unknown key"),
    "long keys": ("".join("k" * 900 + f"{i}: 1\n" for i in range(140)), "unknown key"),
    "nothing": (" " * 130_000, "must hold a mapping of keys"),
    "quotes": ("a: '" + "''" * 60_000 + "'", "a: unknown key"),
}
FINE = {
    "as many entries as may be": BASE + methods(9, "replay") + END + VARIANTS,
    "many choices": BASE
    + f"training: {{learning_rate: {{choice: {[(i + 1) / 1e4 for i in range(1000)]}}}, momentum: 0.0}}\n"
    + methods(3)
    + END,
    "many tasks": BASE.replace(
        "name: split, dataset: digits, tasks: 5", "name: permuted, dataset: digits, tasks: 10000"
    )
    + "strategies: {naive: {}, ewc: search, replay: {}}\n"
    + END,
}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Methods are imported when they are first named, which is not what is measured."""
    for name in catalog().strategies.names():
        catalog().strategies.get(name)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_time(case: str) -> None:
    text, expected = HOSTILE[case]
    began = time.process_time()
    with pytest.raises(SpecError) as error:
        SweepSpec.parse(text, catalog(), "sweep.yaml")
    assert time.process_time() - began < SECONDS
    assert len(error.value.problems) <= MAX_PROBLEMS + 1
    assert expected in str(error.value)


@pytest.mark.parametrize("case", FINE)
def test_large_files_are_read_in_time(case: str) -> None:
    began = time.process_time()
    assert SweepSpec.parse(FINE[case], catalog(), "sweep.yaml").entries
    assert time.process_time() - began < SECONDS


def test_mutant_without_limits_a_file_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends of 700 dimensions, each with all problems of all 700: a fraction of them already takes the time."""
    text = BASE + "strategies:\n  naive:\n" + keys(100, "{uniform: [0, 1]}", "    ") + END
    monkeypatch.setattr(sweep_file, "MOST_DIMENSIONS", 10**9)
    monkeypatch.setattr(problems, "MAX_PROBLEMS", 10**9)
    monkeypatch.setattr(rules, "MAX_PROBLEMS", 10**9)
    resolved: list[None] = []
    resolve = Blocks.resolve

    def counted(self: Blocks, *args: object) -> object:
        resolved.append(None)
        return resolve(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Blocks, "resolve", counted)
    with pytest.raises(SpecError):
        SweepSpec.parse(text, catalog())
    assert len(resolved) > 100, "of which the limit allows one"


def test_a_file_is_not_read_beyond_the_limit(tmp_path: Path) -> None:
    endless = Path("/dev/zero")
    if not endless.exists():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(SpecError, match="may hold at most"):
        SweepSpec.load(endless, catalog())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_huge_width_is_not_built_to_be_counted(tmp_path: Path) -> None:
    """The whole command, of which the imports are the most: below 1 GB."""
    file = tmp_path / "wide.yaml"
    wide = BASE.replace("hidden: [10]", "hidden: [65536, 65536, 65536]").replace("tasks: 5", "tasks: 5, scenario: task")
    file.write_text(wide + "strategies: {naive: {}, piggyback: search, hypernetwork: {}}\n" + END)
    program = (  # the peak of the program itself: getrusage counts the process that forked it as well
        "import atexit, re, sys\n"
        "from pathlib import Path\n"
        "status = Path('/proc/self/status')\n"
        "atexit.register(lambda: sys.stderr.write(re.search(r'VmHWM:\\s*(\\d+)', status.read_text())[1]))\n"
        "from raycl.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, "check", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "more than 50,000,000 parameters" in done.stdout
    assert int(done.stderr.splitlines()[-1]) < 1_000_000, "kB"


WHOLE = {
    "no YAML": ("\t" * 100_000, 2, False),
    "aliases of aliases": (aliases(12), 2, False),
    "a small sweep": (BASE + NAIVE, 0, True),
    "many variants": (BASE + methods(9) + END + VARIANTS, 0, True),
}
TIMED = """
import sys
from raycl.cli import main
try:
    main()
except SystemExit as ended:
    print([name for name in ("torch", "torch._dynamo") if name in sys.modules], file=sys.stderr)
    raise
"""


@pytest.mark.parametrize("case", WHOLE)
def test_the_whole_command_imports_no_more_than_it_needs(case: str, tmp_path: Path) -> None:
    """Imports are most of its time: a file that is no YAML needs no torch, and no file torch's compiler, a second."""
    text, code, needs_torch = WHOLE[case]
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    done = subprocess.run([sys.executable, "-c", TIMED, "check", str(file)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == str(["torch"] if needs_torch else [])
