"""The Huffman code of HPACK (RFC 7541 §5.2, Appendix B).

The code is canonical: symbols sorted by the length of their code, then by value, have ascending codes. So
the lengths define it. The decoder takes a byte at a time through tables that are made when they are first
needed: a row for each place inside a code.
"""

from __future__ import annotations

from typing import Final

_LENGTHS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""Bits of the code of each byte, and of the symbol that ends a string (EOS), which never occurs."""
_EOS: Final = 256
_LONGEST_PADDING: Final = 7
_NO_STATE: Final = -1


def _codes() -> list[str]:
    """Return the code of each symbol as a text of ones and zeros."""
    codes = [""] * len(_LENGTHS)
    code = length = 0
    for symbol in sorted(range(len(_LENGTHS)), key=lambda one: (_LENGTHS[one], one)):
        code <<= _LENGTHS[symbol] - length
        length = _LENGTHS[symbol]
        codes[symbol] = f"{code:0{length}b}"
        code += 1
    return codes


_CODES: Final[list[str]] = _codes()


class _Tree:
    """The codes as a binary tree, and the rows of the tables that were needed so far.

    A place (``state``) is the number of an inner node, the root being 0.
    """

    __slots__ = ("_children", "endings", "nexts", "outputs")

    def __init__(self) -> None:
        children: list[list[int]] = [[0, 0]]
        for symbol, code in enumerate(_CODES):
            node = 0
            for bit in code[:-1]:
                if not children[node][bit == "1"]:
                    children.append([0, 0])
                    children[node][bit == "1"] = len(children) - 1
                node = children[node][bit == "1"]
            children[node][code[-1] == "1"] = ~symbol
        self._children = children
        self.nexts: list[list[int] | None] = [None] * len(children)
        """By state and byte: the next state."""
        self.outputs: list[list[bytes]] = [[] for _ in children]
        """By state and byte: the symbols that are complete with it."""
        self.endings = set[int]()
        """The states in which a string may end: up to seven ones are padding."""
        node = 0
        for _ in range(_LONGEST_PADDING + 1):
            self.endings.add(node)
            node = children[node][1]

    def row(self, state: int) -> list[int]:
        """Make the row of a state, and return its ``nexts``."""
        nexts: list[int] = []
        outputs: list[bytes] = []
        for byte in range(256):
            node, output = state, b""
            for at in range(7, -1, -1):
                node = self._children[node][byte >> at & 1]
                if node == ~_EOS:
                    node = _NO_STATE
                    break
                if node < 0:
                    output += bytes((~node,))
                    node = 0
            nexts.append(node)
            outputs.append(output)
        self.nexts[state] = nexts
        self.outputs[state] = outputs
        return nexts


_TREE: Final = _Tree()


def decode(data: bytes) -> bytes:
    """Return the decoded string. Raises ``ValueError`` for EOS and for wrong padding."""
    tree = _TREE
    nexts_of, outputs_of = tree.nexts, tree.outputs
    decoded: list[bytes] = []
    state = 0
    for byte in data:
        nexts = nexts_of[state]
        if nexts is None:
            nexts = tree.row(state)
        decoded.append(outputs_of[state][byte])
        state = nexts[byte]
        if state < 0:
            raise ValueError("EOS inside a Huffman-coded string")
    if state not in tree.endings:
        raise ValueError("malformed padding of a Huffman-coded string")
    return b"".join(decoded)


def encode(data: bytes) -> bytes:
    """Return the coded string, padded with ones."""
    if not data:
        return b""
    codes = _CODES
    bits = "".join([codes[byte] for byte in data])
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
