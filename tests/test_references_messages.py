"""Messages between this process and the one that uses the crds library."""

from __future__ import annotations

import pytest

from survey.references.messages import Best, BestRequest, Catalog, CatalogRequest, Failure, decode, encode


@pytest.mark.parametrize(
    "message",
    [
        CatalogRequest(None, 20.0),
        Catalog("jwst_0002.pmap", {"mappings": "http://host/m"}, ["a.rmap"], {"a.rmap": 5}, {"a.rmap": "0" * 40}, "{}"),
        BestRequest("jwst_0001.pmap", ["flat"], {"one": "/raw/one.fits"}),
        Best([{"flat": "f.fits"}], {"one": 0}, {"two": "why"}, ["a.rmap"], {"f.fits": "r/f.fits"}, {}, {}, ["f.fits"]),
        Failure("cache", "FileNotFoundError: a.rmap"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_back_as_it_was(message):
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "{}", '{"message": "Other"}', '{"message": "Failure"}', '{"message": "Failure", "x": 1}']
)
def test_another_text_is_no_message(text):
    with pytest.raises(ValueError):
        decode(text)
