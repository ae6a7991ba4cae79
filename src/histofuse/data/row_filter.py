"""Leave out, before a large CSV table is parsed, the rows that cannot be wanted.

Parsing the rows of everyone else is what reading a large table takes. So the text is decompressed
by ISA-L on a thread of its own, cut at line breaks outside quotes, and each row's key compared
eight bytes at a time. A row that looks unusual is kept for the parser to judge. A row's *layout* is
where the commas stand in its first bytes: rows of one layout have their key at the same place, so a
few comparisons decide on all of them at once.
"""

from collections.abc import Collection, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

BLOCK_BYTES: Final = 4 << 20
_LONGEST_ROW: Final = 16 << 20
_WORD: Final = 8
_MOST_WORDS: Final = 5  # of eight bytes; the key must end within
_MOST_LAYOUTS: Final = 6  # of a block; rows of further ones are kept
_NEWLINE, _QUOTE, _COMMA = (ord(character) for character in '\n",')
_PLACE_BITS: Final = 20  # a million places: 5,000 keys let one row in 200 through by chance
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_COMMAS: Final = np.uint64(int.from_bytes(b"," * _WORD, "little"))
_QUOTES: Final = np.uint64(int.from_bytes(b'"' * _WORD, "little"))
_UPPER_HALVES: Final = int.from_bytes(b"\xf0" * _WORD, "little")
_UPPER_OF_DIGITS: Final = int.from_bytes(b"0" * _WORD, "little")
_LOW_BITS: Final = np.uint64(0x7F7F7F7F7F7F7F7F)


def can_filter(values: Collection[str]) -> bool:
    """Say whether keys are short enough to be compared as one number."""
    return all(len(value.encode()) <= _WORD for value in values)


def filter_rows(path: Path, column: int, values: Collection[str]) -> Iterator[bytes]:
    """Read a CSV table through, plain or gzipped, and keep the rows that may have a wanted key.

    Yields the header, then whole rows, many at a time, in the order of the file: every row whose
    number `column` is one of `values`, whole numbers (see `can_filter`), and a few others. Raises
    OSError if the file is cut short or damaged, or a row never ends.
    """
    wanted, begun = _mark_places(values), False
    pieces: list[bytes] = []
    for block, edges in _read_blocks(path):
        if not begun:
            yield block[: edges[1]].tobytes()
        starts, ends = (edges[:-1], edges[1:]) if begun else (edges[1:-1], edges[2:])
        begun = True
        keep = _find_candidates(block, starts, column, wanted)
        pieces.append(_join_rows(block, starts, ends, keep))
        if sum(map(len, pieces)) >= BLOCK_BYTES:
            yield b"".join(pieces)
            pieces.clear()
    yield b"".join(pieces)


def _mark_places(values: Collection[str]) -> Bool[np.ndarray, " places"]:
    """Make a hash table without its keys: what falls on a place not marked is not wanted."""
    marked = np.zeros(1 << _PLACE_BITS, dtype=bool)
    keys = [int.from_bytes(value.encode(), "little") for value in values]
    marked[_hash(np.array(keys, dtype=np.uint64))] = True
    return marked


def _hash(keys: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Hash keys to places (Knuth, The Art of Computer Programming 3, 6.4, multiplicative)."""
    return (keys * _GOLDEN) >> np.uint64(64 - _PLACE_BITS)


def _open_binary(path: Path) -> BufferedReader:
    if path.suffix == ".gz":
        from isal import igzip_threaded

        return igzip_threaded.open(path, "rb", threads=1)  # pyright: ignore[reportReturnType]
    return path.open("rb")


def _read_blocks(
    path: Path,
) -> Iterator[tuple[UInt8[np.ndarray, " n"], Int64[np.ndarray, " rows+1"]]]:
    """Read blocks of whole rows and where they meet, room behind; valid until the next block."""
    room = np.zeros(BLOCK_BYTES + _LONGEST_ROW + _MOST_WORDS * _WORD + _WORD, dtype=np.uint8)
    held = 0
    with _open_binary(path) as file:
        while read := _read_into(file, room.data[held : held + BLOCK_BYTES]):
            held += read
            ends = _find_ends(room[:held])
            if len(ends):
                yield room, np.concatenate([[0], ends])
                rest = room[ends[-1] : held].copy()
                held = len(rest)
                room[:held] = rest
            if held > _LONGEST_ROW:
                raise OSError(f"a row of more than {_LONGEST_ROW >> 20} MiB: a quote is not closed")
    if held:
        yield room, np.array([0, held])


def _read_into(file: BufferedReader, space: memoryview) -> int:
    from isal.igzip_lib import IsalError

    try:
        return file.readinto(space)
    except (EOFError, IsalError) as error:  # pyright: ignore[reportGeneralTypeIssues]
        raise OSError(str(error)) from error


def _find_ends(text: UInt8[np.ndarray, " n"]) -> Int64[np.ndarray, " rows"]:
    """Find the places behind the line breaks that end a row; those between quotes do not."""
    places = np.flatnonzero((text == _NEWLINE) | (text == _QUOTE))
    quote = text[places] == _QUOTE
    # Eight bits are enough: only whether the count is even matters, and 256 is.
    outside = np.cumsum(quote, dtype=np.uint8) % 2 == 0
    return places[outside & ~quote] + 1


def _find_candidates(
    block: UInt8[np.ndarray, " n"],
    starts: Int64[np.ndarray, " rows"],
    column: int,
    wanted: Bool[np.ndarray, " places"],
) -> Bool[np.ndarray, " rows"]:
    words = np.ndarray((len(block) - _WORD + 1,), "<u8", block.data, strides=(1,))
    keep = np.ones(len(starts), dtype=bool)
    undecided = np.arange(len(starts))
    for _ in range(_MOST_LAYOUTS):
        if not len(undecided):
            break
        begins = starts[undecided]
        key = _find_key(block, int(begins[0]), column)
        if key is None:
            # Only this row is unusual: it is kept, and the next one tried.
            undecided = undecided[1:]
            continue
        alike = _match_layout(words, begins, key[1])
        place, size = key[0], key[1] - key[0]
        numbers = words[begins[alike] + place] & np.uint64((1 << 8 * size) - 1)
        keep[undecided[alike]] = wanted[_hash(numbers)] | ~_are_plain(numbers, size)
        undecided = undecided[~alike]
    return keep


def _find_key(block: UInt8[np.ndarray, " n"], begin: int, column: int) -> tuple[int, int] | None:
    """Find where a row's key begins and ends, counted from the row's begin; None if not plainly."""
    head = block[begin : begin + _MOST_WORDS * _WORD].tobytes().partition(b"\n")[0]
    commas = [i for i, character in enumerate(head) if character == _COMMA]
    if len(commas) <= column or _QUOTE in head[: commas[column]]:
        return None
    start = commas[column - 1] + 1 if column else 0
    end = commas[column]
    return (start, end) if 1 <= end - start <= _WORD else None


def _are_plain(keys: UInt64[np.ndarray, " n"], size: int) -> Bool[np.ndarray, " n"]:
    """Say which keys of some bytes are digits alone, not 0 first: 10001.0 may mean 10001."""
    # One less turns a first "0" into a sign; digits and six signs have the same upper half.
    seen = (1 << 8 * size) - 1
    upper = (keys - np.uint64(1)) & np.uint64(_UPPER_HALVES & seen)
    return upper == np.uint64(_UPPER_OF_DIGITS & seen)


def _match_layout(
    words: UInt64[np.ndarray, " n"], begins: Int64[np.ndarray, " rows"], end: int
) -> Bool[np.ndarray, " rows"]:
    """Say which rows have the first one's commas up to its `end`, and no quote before."""
    alike = np.ones(len(begins), dtype=bool)
    for offset in range(0, end + 1, _WORD):
        seen = np.uint64((1 << 8 * min(_WORD, end + 1 - offset)) - 1)
        found = words[begins + offset]
        commas = _mark(found, _COMMAS) & seen
        alike &= commas == commas[0]
        alike &= (_mark(found, _QUOTES) & seen) == 0
    return alike


def _mark(words: UInt64[np.ndarray, " n"], character: np.uint64) -> UInt64[np.ndarray, " n"]:
    """Set the highest bit of each byte that is the character (Warren, Hacker's Delight, 6-1)."""
    other = words ^ character
    return ~(((other & _LOW_BITS) + _LOW_BITS) | other | _LOW_BITS)


def _join_rows(
    block: UInt8[np.ndarray, " n"],
    starts: Int64[np.ndarray, " rows"],
    ends: Int64[np.ndarray, " rows"],
    keep: Bool[np.ndarray, " rows"],
) -> bytes:
    """Join the rows kept, those that follow one another as one piece."""
    edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0))
    text = block.data
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return b"".join(text[starts[first] : ends[last - 1]] for first, last in runs)
