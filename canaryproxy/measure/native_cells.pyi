class Cells:
    def __init__(
        self,
        cells: memoryview[int],
        bounds: bytes,
        lowest: float,
        per_neper: float,
        routed: int,
        codes: int,
        finished: int,
        first_byte: int,
        duration: int,
    ) -> None: ...
    def add(self, at: int, count: int, /) -> None: ...
    def add_each(self, cells: tuple[int, ...], /) -> None: ...
    def route(self) -> None: ...
    def finish(self, status: int, waited: float, took: float, more: tuple[int, ...], /) -> int: ...
