"""Checkpoints in a plain directory survive the death of the process that writes them."""

import os

import pytest

from trainers.reports import DirectoryReports

CALLS = ("mkdir", "rename", "rmdir", "unlink")  # of the operating system, that change a directory


class Killed(BaseException):
    """The process ends here."""


class Life:
    """Counts the calls that change a directory; the process dies at one of them."""

    def __init__(self, monkeypatch):
        self._left = -1
        for name in CALLS:
            monkeypatch.setattr(os, name, self._mortal(getattr(os, name)))

    def _mortal(self, call):
        def until_killed(*arguments, **options):
            if not self._left:
                raise Killed
            self._left -= 1
            return call(*arguments, **options)

        return until_killed

    def until_call(self, number, reports, files):
        """Whether a report of `files` dies at its call of this number."""
        self._left = number
        try:
            reports.report({}, writing(files))
        except Killed:
            return True
        finally:
            self._left = -1  # the next process is not killed
        return False


def writing(files):
    def write(directory):
        for name in files:
            (directory / name).write_text(files[name])

    return write


def newest(reports):
    with reports.latest() as directory:
        return {file.name: file.read_text() for file in directory.iterdir()} if directory else None


FIRST = {"state": "1", "model": "1", "best": "1"}
SECOND = {"state": "2", "model": "2"}  # without the file that is there at times only
THIRD = {"state": "3", "epoch": "3"}


@pytest.mark.parametrize("first", [None, FIRST])
def test_a_checkpoint_is_whole_wherever_the_process_is_killed(tmp_path, monkeypatch, first):
    life = Life(monkeypatch)
    found, was_killed = [], True
    while was_killed:
        number = len(found)
        reports = DirectoryReports(tmp_path / str(number))
        if first:
            reports.report({}, writing(first))
        was_killed = life.until_call(number, reports, SECOND)
        found.append(newest(DirectoryReports(tmp_path / str(number))))
        assert found[-1] in (first, SECOND)
    assert found[0] == first
    assert found[-1] == SECOND


def test_nor_is_it_lost_when_the_next_process_is_killed_too(tmp_path, monkeypatch):
    life = Life(monkeypatch)
    number, was_killed = 0, True
    while was_killed:
        directory = tmp_path / str(number)
        DirectoryReports(directory).report({}, writing(FIRST))
        was_killed = life.until_call(number, DirectoryReports(directory), SECOND)
        life.until_call(number, DirectoryReports(directory), THIRD)
        assert newest(DirectoryReports(directory)) in (FIRST, SECOND, THIRD)
        DirectoryReports(directory).report({}, writing(THIRD))
        assert newest(DirectoryReports(directory)) == THIRD
        number += 1
