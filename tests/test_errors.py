import warnings

import pytest

from asic3d.errors import Asic3dError, Asic3dWarning, CollectionError, CollectionWarning


@pytest.mark.parametrize("kind", [CollectionError, CollectionWarning])
def test_a_message_is_one_line_that_steers_no_terminal(kind):
    assert str(kind("'a\nb\x1b[31m\x7f\u202e.jpg' is gone")) == r"'a\nb\x1b[31m\x7f\u202e.jpg' is gone"
    assert str(kind("'\udcff.jpg' is gone")) == r"'\udcff.jpg' is gone"  # a name that is no text
    assert str(kind("'été 鳥 🦊.jpg' is gone")) == "'été 鳥 🦊.jpg' is gone"
    assert str(kind()) == ""


def test_what_is_warned_of_is_shown_so_too():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("a\rb", Asic3dWarning, stacklevel=1)
    assert str(caught[0].message) == r"a\rb"
    assert not isinstance(caught[0].message, Asic3dError)
