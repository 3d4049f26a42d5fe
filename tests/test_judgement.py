"""What is said of photos whose mask covers next to nothing."""

import pytest

from asic3d.judgement import mask_warnings

NAMES = ("a.jpg", "b.jpg", "c.jpg")


def test_a_photo_of_which_hardly_anything_is_object_is_named():
    assert list(mask_warnings(NAMES, [0.3, 0.006, 0.24], range(3))) == [
        "Hardly anything of 'b.jpg' was taken for the object: 0.6% of the photo, where 24% is usual. Look at its mask; "
        "if it is wrong, give --masks."
    ]


@pytest.mark.parametrize(
    ("shares", "asked"),
    [
        ([0.3, 0.02, 0.24], range(3)),  # small, but more than a speck
        ([0.011, 0.006, 0.009], range(3)),  # small things everywhere
        ([0.3, 0.006, 0.24], [0, 2]),  # its mask was given
    ],
)
def test_small_objects_and_given_masks_are_not_doubted(shares, asked):
    assert list(mask_warnings(NAMES, shares, asked)) == []
