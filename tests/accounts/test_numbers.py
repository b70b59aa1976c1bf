from django.test import SimpleTestCase

from accounts import numbers

VALID = ["82000118", "10000008", "99999997"]


class NumberTests(SimpleTestCase):
    def setUp(self):
        self.drawn = [numbers.random_number() for _ in range(200)]

    def test_a_drawn_number_is_valid(self):
        for number in self.drawn:
            assert numbers.is_valid(number)
            assert len(number) == 8

    def test_numbers_are_not_drawn_in_order(self):
        assert len(set(self.drawn)) > 190
        assert self.drawn != sorted(self.drawn)

    def test_every_single_wrong_digit_is_caught(self):
        for number in self.drawn[:20]:
            for place in range(8):
                for digit in "0123456789".replace(number[place], ""):
                    wrong = number[:place] + digit + number[place + 1 :]
                    assert not numbers.is_valid(wrong), (number, wrong)

    def test_neighbours_changing_places_are_caught_but_for_0_and_9(self):
        # The one weakness of the Luhn digit: 09 and 90 have the same sum.
        for number in self.drawn:
            for place in range(7):
                first, second = number[place], number[place + 1]
                wrong = number[:place] + second + first + number[place + 2 :]
                if first != second and {first, second} != {"0", "9"}:
                    assert not numbers.is_valid(wrong), (number, wrong)

    def test_the_check_digit_is_luhns(self):
        # The example that the algorithm is usually explained with.
        assert numbers.check_digit("7992739871") == "3"

    def test_what_is_no_number_is_not_valid(self):
        for text in ["", "8200011", "820001180", "8200011a", "٨٢٠٠٠١١٨", "-8200011"]:
            with self.subTest(text=text):
                assert not numbers.is_valid(text)
