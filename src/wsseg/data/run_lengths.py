"""Run lengths of masks, in the three ways that annotation tools write them.

* COCO: counts of 0 and 1 in turn, down the columns; compressed into text of 5 bits per letter with
  differences from the count before last (Lin et al., "Microsoft COCO", ECCV 2014; pycocotools).
* CVAT: counts of 0 and 1 in turn, along the rows of a rectangle.
* Label Studio: bits. 32 for the number of values, 5 for the word size - 1, four times 4 for the
  bits of a length - 1; then blocks: 1 bit (run or single values), 2 bits (which length size), the
  length - 1, and the value or values. The values are the RGBA bytes of the image; alpha marks.

All counts are checked before memory is taken, because files come from strangers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 2**28
"""Most pixels of a mask that is decoded."""

_LENGTH_BITS = (3, 4, 8, 16)


def encode_runs(values: NDArray[np.bool_]) -> list[int]:
    """Count the runs of a flat mask, the first of them zeros.

    Example:
        >>> encode_runs(np.array([True, True, False]))
        [0, 2, 1]
    """
    flat = np.concatenate([[False], values.ravel(), [not values.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(ends, prepend=0).tolist()


def decode_runs(counts: Sequence[int], num_values: int) -> NDArray[np.bool_]:
    """Turn counts of 0 and 1 in turn into a flat mask.

    Args:
        counts: Lengths from 0, zeros first.
        num_values: What they must add up to.

    Returns:
        (num_values,) bool.

    Raises:
        ValueError: When a count is not a whole number from 0, or the sum is another.

    Example:
        >>> decode_runs([0, 2, 1], 3).tolist()
        [True, True, False]
    """
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in counts):
        raise ValueError("the counts are not whole numbers from 0")
    if sum(counts) != num_values or num_values > MAX_PIXELS:
        raise ValueError(f"the counts add up to {sum(counts)}, not to {num_values} pixels")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def parse_coco_text(text: str) -> list[int]:
    """Read the counts out of COCO's compressed text.

    Raises:
        ValueError: When the text holds other letters or ends in the middle of a number.

    Example:
        >>> parse_coco_text("422")
        [4, 2, 2]
    """
    counts: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise ValueError(f'"{text[:20]}" is not text of compressed run lengths')
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        # From the fourth count on the difference from the count before last is stored.
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError(f'"{text[-20:]}" ends in the middle of a number')
    return counts


def coco_text(counts: Sequence[int]) -> str:
    """Compress counts as COCO does.

    Example:
        >>> coco_text([4, 2, 2])
        '422'
    """
    letters = []
    for index, count in enumerate(counts):
        value = count - (counts[index - 2] if index > 2 else 0)
        while True:
            bits, value = value & 0x1F, value >> 5
            is_last = value == (-1 if bits & 0x10 else 0)
            letters.append(chr(48 + (bits if is_last else bits | 0x20)))
            if is_last:
                break
    return "".join(letters)


def decode_brush(data: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a brush mask of Label Studio.

    Args:
        data: Bytes as numbers 0..255.
        size: (H, W) of the image.

    Returns:
        (H, W) bool: where alpha is not 0.

    Raises:
        ValueError: When the bytes are malformed or made for another size.

    Example:
        >>> mask = np.array([[True, False], [True, True]])
        >>> decode_brush(encode_brush(mask), (2, 2)).tolist()
        [[True, False], [True, True]]
    """
    if any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 256 for n in data):
        raise ValueError("the run lengths are not bytes from 0 to 255")
    bits = _Bits(np.array(data, np.uint8))
    num_values = bits.number(32)
    if num_values != size[0] * size[1] * 4 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"the run lengths hold {num_values} values, not {size[1]} x {size[0]} x 4")
    word = bits.number(5) + 1
    length_bits = [bits.number(4) + 1 for _ in range(4)]
    if word > 8:
        raise ValueError(f"the values have {word} bits, more than 8")
    values = np.zeros(num_values, np.uint8)
    done = 0
    while done < num_values:
        is_run = bits.number(1)
        length = bits.number(length_bits[bits.number(2)]) + 1
        if done + length > num_values:
            raise ValueError("a run reaches beyond the end of the image")
        block = bits.number(word) if is_run else bits.words(length, word)
        values[done : done + length] = block
        done += length
    return values.reshape(*size, 4)[..., 3] > 0


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as Label Studio's brush does, white and opaque where it is set.

    Args:
        mask: (H, W) bool.

    Returns:
        Bytes as numbers.

    Raises:
        ValueError: When the number of values, 4 H W, does not fit into 32 bits.
    """
    num_values = mask.size * 4
    if num_values >= 2**32:
        raise ValueError(f"a mask of {mask.size} pixels is too large for Label Studio")
    parts = [f"{num_values:032b}", f"{7:05b}", *(f"{bits - 1:04b}" for bits in _LENGTH_BITS)]
    largest = 2 ** _LENGTH_BITS[-1]
    for index, count in enumerate(encode_runs(mask)):
        value = f"{255 * (index % 2):08b}"
        left = count * 4
        while left:
            length = min(left, largest)
            choice = next(i for i, bits in enumerate(_LENGTH_BITS) if length <= 2**bits)
            parts.append(f"1{choice:02b}{length - 1:0{_LENGTH_BITS[choice]}b}{value}")
            left -= length
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return [int(text[start : start + 8], 2) for start in range(0, len(text), 8)]


class _Bits:
    """Numbers of any width, read one after the other from bytes."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._bits = np.unpackbits(data)
        self._data = data.tobytes() + bytes(8)
        self._at = 0

    def number(self, width: int) -> int:
        """Read one number of up to 32 bits."""
        at = self._at
        self._advance(width)
        window = int.from_bytes(self._data[at >> 3 : (at >> 3) + 8])
        return (window >> (64 - (at & 7) - width)) & ((1 << width) - 1)

    def words(self, count: int, width: int) -> NDArray[np.int64]:
        """Read several numbers of the same width."""
        at = self._at
        self._advance(count * width)
        bits = self._bits[at : at + count * width].reshape(count, width)
        return bits @ (1 << np.arange(width - 1, -1, -1))

    def _advance(self, width: int) -> None:
        if self._at + width > self._bits.size:
            raise ValueError("the run lengths end too early")
        self._at += width
