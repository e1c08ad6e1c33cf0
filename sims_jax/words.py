"""Numbers and what they count, in words."""


def counted(number: int, one: str, several: str = "") -> str:
    """ "1 photo", "2 photos"; `several` where it is more than `one` with an s."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"
