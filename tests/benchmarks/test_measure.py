from __future__ import annotations

import os
import sys

import pytest

from benchmarks.measure import Command, FailedError, measure


def python(program: str, *arguments: str) -> Command:
    return Command((sys.executable, "-c", program, *arguments))


def test_a_pipeline_passes_what_it_reads_and_tells_what_the_last_one_says() -> None:
    double = python("import sys; sys.stdout.write(sys.stdin.read() * 2)")
    measured = measure([(python("print('가나다', end='')"), double, double)], os.environ)
    assert measured.said == "가나다" * 4


def test_one_pipeline_follows_the_other() -> None:
    assert measure([(python("print(1)"),), (python("print(2)"),)], os.environ).said.split() == ["1", "2"]


def test_time_and_processor_are_those_of_all_processes() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}], check=True)"
    measured = measure([(python(child),)], os.environ)
    assert measured.client_cpu >= 0.3, "a grandchild's is told too"
    assert measured.wall >= 0.3
    assert measured.machine_cpu > 0.2


def test_memory_is_that_of_the_whole_tree() -> None:
    hold = "x = bytearray(80_000_000); import time; time.sleep(0.5)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}], check=True)"
    measured = measure([(python(child),)], os.environ)
    assert measured.peak_rss > 80_000_000
    assert measured.peak_rss == max(size for _, size in measured.memory)


def test_memory_of_others_is_not_counted() -> None:
    with_nothing = measure([(python("import time; time.sleep(0.3)"),)], os.environ)
    assert 0 < with_nothing.peak_rss < 50_000_000


@pytest.mark.parametrize("number", [0, 1])
def test_either_side_that_fails_fails_the_run_with_its_words(number: int) -> None:
    sides = [python("import sys; sys.stdin.read()"), python("import sys; sys.stdin.read()")]
    sides[number] = python("import sys; sys.exit('안 됩니다')")
    with pytest.raises(FailedError, match="안 됩니다"):
        measure([tuple(sides)], os.environ)


def test_a_run_that_takes_too_long_is_ended() -> None:
    with pytest.raises(FailedError, match="-9"):
        measure([(python("import time; time.sleep(100)"),)], os.environ, within=0.3)
