"""Account numbers: 7 random digits and a Luhn check digit.

The check digit catches a typing error without telling which accounts exist.
"""

import secrets

LENGTH = 8


def check_digit(digits: str) -> str:
    """The Luhn digit that completes the digits."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def is_valid(number: str) -> bool:
    return (
        len(number) == LENGTH
        and number.isascii()
        and number.isdigit()
        and check_digit(number[:-1]) == number[-1]
    )


def random_number() -> str:
    """A number that may be taken already; the first digit is never 0."""
    digits = str(secrets.randbelow(9 * 10 ** (LENGTH - 2)) + 10 ** (LENGTH - 2))
    return digits + check_digit(digits)
