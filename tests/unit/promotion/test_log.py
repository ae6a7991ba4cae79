import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from histofuse.core.errors import InputError
from histofuse.promotion.log import LOG, Entry, append_entry, read_log, replay

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(step, digest, event="promote", model="histofuse-mlp"):
    return Entry(
        id=str(step),
        when=f"2026-01-01T00:00:{step:02d}.000000Z",
        event=event,
        model=model,
        digest=digest,
        from_digest=None,
        by="ada",
        forced=False,
        reason="",
        gate="passed",
        git_commit=None,
    )


def chain(*steps):
    entries = [make(n, *step) for n, step in enumerate(steps)]
    return [entry.digest for entry in replay(entries, "histofuse-mlp")]


def test_entries_come_back_as_they_were_written():
    entries = [make(1, "a"), replace(make(2, "b"), reason="naïve “quotes”\nand\u2028lines")]
    for entry in entries:
        append_entry(entry)
    assert read_log() == entries
    assert LOG.read_text().count("\n") == 2


def test_entry_that_is_there_is_not_written_again():
    append_entry(make(1, "a"))
    append_entry(make(1, "a"))
    assert len(read_log()) == 1


def test_line_after_one_without_an_end_is_a_line_of_its_own():
    append_entry(make(1, "a"))
    LOG.write_text(LOG.read_text().rstrip("\n"))
    append_entry(make(2, "b"))
    assert [entry.digest for entry in read_log()] == ["a", "b"]


def test_all_lines_that_are_no_decisions_are_named_and_none_is_overwritten():
    append_entry(make(1, "a"))
    values = vars(make(2, "b"))
    bad = ["<<<<<<< HEAD", json.dumps(values | {"event": "demote"}), json.dumps({"id": "1"})]
    LOG.write_text(LOG.read_text() + "\n".join(bad))
    before = LOG.read_text()
    with pytest.raises(InputError) as error:
        append_entry(make(3, "c"))
    for number in (2, 3, 4):
        assert f"promotions.jsonl, line {number}" in str(error.value)
    assert LOG.read_text() == before


def test_merged_branches_are_read_in_the_order_of_their_days():
    for step, digest in ((3, "c"), (1, "a"), (2, "b")):
        append_entry(make(step, digest))
    assert [entry.digest for entry in read_log()] == ["a", "b", "c"]


def test_git_keeps_the_lines_of_both_branches():
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    Path(".gitattributes").write_text((ROOT / ".gitattributes").read_text())
    append_entry(make(1, "a"))
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "x"]):
        git(*command)
    git("checkout", "-qb", "other")
    append_entry(make(2, "b"))
    git("commit", "-qam", "y")
    git("checkout", "-q", "main")
    append_entry(make(3, "c"))
    git("commit", "-qam", "z")
    git("merge", "-q", "other")
    assert [entry.digest for entry in read_log()] == ["a", "b", "c"]


def test_replay_follows_promotions_and_rollbacks():
    assert chain() == []
    assert chain(("a",), ("b",), ("c",)) == ["a", "b", "c"]
    assert chain(("a",), ("b",), ("c",), ("b", "rollback")) == ["a", "b"]
    back = (("b", "rollback"), ("a", "rollback"))
    assert chain(("a",), ("b",), ("c",), *back) == ["a"]
    assert chain(("a",), ("b",), ("a",), ("b", "rollback"), ("d",)) == ["a", "b", "d"]


def test_rollback_to_what_the_log_does_not_know_starts_anew():
    """A version may have been put into production by hand, past the log."""
    assert chain(("a",), ("b",), ("x", "rollback")) == ["x"]


def test_models_are_told_apart():
    entries = [make(1, "a"), make(2, "b", model="histofuse-fusion")]
    assert [entry.digest for entry in replay(entries, "histofuse-fusion")] == ["b"]
