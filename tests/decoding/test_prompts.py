"""Layouts against golden token pictures, positions against the rule of training, refusals against their arithmetic."""

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from cm3leon_jax.decoding import prompts
from cm3leon_jax.decoding.prompts import Pair
from cm3leon_jax.errors import InputError
from cm3leon_jax.layout import Layout
from cm3leon_jax.vocabulary import Vocabulary

V = Vocabulary(text_size=20, image_size=8, num_sentinels=4, total_size=0)
DOCUMENT = Layout(image_tokens=4, text_tokens=3, max_documents=3, numbering="document")  # stride 9
SEQUENCE = Layout(image_tokens=4, text_tokens=3, max_documents=3, numbering="sequence")
IMAGE = V.image_ids([0, 1, 2, 3])
DOCS = [Pair(np.array([5, 6]), IMAGE)]

# Written by hand from the layouts of the paper (§1.4 of the notes) and the position rule in layout.py.
GOLDEN = {
    "text_to_image": (
        lambda layout: prompts.text_to_image(V, layout, [7, 8], DOCS),
        "<eos>@9 text×2@10..11 <break>@13 image×4@14..17 <break>@18 text×2@19..20 <break>@22 → ?image×4@23..26",
        "<eos>@0 text×2@1..2 <break>@3 image×4@4..7 <break>@8 text×2@9..10 <break>@11 → ?image×4@12..15"),
    "unconditional": (
        lambda layout: prompts.unconditional(V, layout),
        "<eos>@18 <sentinel:0>@19 <break>@22 → ?image×4@23..26",
        "<eos>@0 <sentinel:0>@1 <break>@2 → ?image×4@3..6"),
    "unconditional, same documents": (
        lambda layout: prompts.unconditional(V, layout, DOCS),
        "<eos>@9 text×2@10..11 <break>@13 image×4@14..17 <break>@18 <sentinel:0>@19 <break>@22 → ?image×4@23..26",
        "<eos>@0 text×2@1..2 <break>@3 image×4@4..7 <break>@8 <sentinel:0>@9 <break>@10 → ?image×4@11..14"),
    "caption": (
        lambda layout: prompts.image_to_text(V, layout, IMAGE),
        "<eos>@18 <sentinel:0>@19 <break>@22 image×4@23..26 <eos>@27 <sentinel:0>@19"
        " → ?text@19 ?text|<eoss>×2@20..21 <eoss>@22",
        "<eos>@0 <sentinel:0>@1 <break>@2 image×4@3..6 <eos>@7 <sentinel:0>@8"
        " → ?text@9 ?text|<eoss>×2@10..11 <eoss>@12"),
    "answer": (
        lambda layout: prompts.image_to_text(V, layout, IMAGE, before=[4], after=[6]),
        "<eos>@18 text@19 <sentinel:0>@20 text@21 <break>@22 image×4@23..26 <eos>@27 <sentinel:0>@20"
        " → ?text@20 <eoss>@21",
        "<eos>@0 text@1 <sentinel:0>@2 text@3 <break>@4 image×4@5..8 <eos>@9 <sentinel:0>@10"
        " → ?text@11 <eoss>@12"),
    "infill, two spans": (
        lambda layout: prompts.infill_image(V, layout, [7], IMAGE, [1, 0, 1, 1]),
        "<eos>@18 text@19 <break>@22 <sentinel:0>@23 image@24 <sentinel:1>@25 <eos>@27 <sentinel:0>@23"
        " → ?image@23 <eoss>@24 <sentinel:1>@25 ?image×2@25..26 <eoss>@27",
        "<eos>@0 text@1 <break>@2 <sentinel:0>@3 image@4 <sentinel:1>@5 <eos>@6 <sentinel:0>@7"
        " → ?image@8 <eoss>@9 <sentinel:1>@10 ?image×2@11..12 <eoss>@13"),
    "infill without a text": (
        lambda layout: prompts.infill_image(V, layout, None, IMAGE, [0, 0, 0, 1]),
        "<eos>@18 <sentinel:0>@19 <break>@22 image×3@23..25 <sentinel:1>@26 <eos>@27 <sentinel:1>@26"
        " → ?image@26 <eoss>@27",
        "<eos>@0 <sentinel:0>@1 <break>@2 image×3@3..5 <sentinel:1>@6 <eos>@7 <sentinel:1>@8 → ?image@9 <eoss>@10"),
    "infill, runs joined": (
        lambda layout: prompts.infill_image(V, layout, [7], IMAGE, [1, 0, 1, 1], max_spans=1),
        "<eos>@18 text@19 <break>@22 <sentinel:0>@23 <eos>@27 <sentinel:0>@23"
        " → ?image@23 <image:1>@24 ?image×2@25..26 <eoss>@27",
        "<eos>@0 text@1 <break>@2 <sentinel:0>@3 <eos>@4 <sentinel:0>@5"
        " → ?image@6 <image:1>@7 ?image×2@8..9 <eoss>@10"),
    "edit": (
        lambda layout: prompts.edit(V, layout, [7, 8], IMAGE, [9]),
        "<eos>@9 text×2@10..11 <break>@13 image×4@14..17 <break>@18 text@19 <break>@22 → ?image×4@23..26",
        "<eos>@0 text×2@1..2 <break>@3 image×4@4..7 <break>@8 text@9 <break>@10 → ?image×4@11..14"),
    "edit, image only": (
        lambda layout: prompts.edit_without_instruction(V, layout, [7, 8], IMAGE),
        "<eos>@9 text×2@10..11 <break>@13 image×4@14..17 <break>@18 <sentinel:0>@19 <break>@22 → ?image×4@23..26",
        "<eos>@0 text×2@1..2 <break>@3 image×4@4..7 <break>@8 <sentinel:0>@9 <break>@10 → ?image×4@11..14"),
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("layout", [DOCUMENT, SEQUENCE], ids=lambda layout: layout.numbering)
def test_golden_pictures(name, layout):
  make, document, sequence = GOLDEN[name]
  assert prompts.picture(V, make(layout)) == (document if layout is DOCUMENT else sequence)


@pytest.mark.parametrize("layout", [DOCUMENT, SEQUENCE], ids=lambda layout: layout.numbering)
def test_prompt_and_plan_stand_where_the_whole_sample_does(layout):
  prompt = prompts.text_to_image(V, layout, [7, 8, 9], DOCS)
  whole = layout.sample_positions([2, 3])
  np.testing.assert_array_equal(np.concatenate([prompt.positions, prompt.planned_positions]), whole[:-1])


def test_plan_of_an_image_is_all_cells_and_nothing_else():
  prompt = prompts.text_to_image(V, DOCUMENT, [7])
  np.testing.assert_array_equal(prompt.cells, np.arange(4))
  assert (prompt.given == -1).all() and prompt.stop == -1
  assert {tuple(r) for r in prompt.allowed[:, 0].tolist()} == {(V.image_start, V.image_end)}


def test_plan_of_a_text_allows_pieces_then_the_end():
  prompt = prompts.image_to_text(V, DOCUMENT, IMAGE)
  ids = np.arange(V.total_size)
  low, high = prompt.allowed[:, None, :, 0], prompt.allowed[:, None, :, 1]
  legal = ((ids[None, :, None] >= low) & (ids[None, :, None] < high)).any(-1)
  assert not legal[:, :3].any()  # <pad>, <eos>, <unk>
  assert not legal[:, V.image_start:V.eoss_id].any() and not legal[:, V.sentinel_start:].any()
  np.testing.assert_array_equal(legal[:, V.eoss_id], [False, True, True, True])
  assert legal[:3, 3:20].all() and not legal[3, 3:20].any()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), st.booleans(), st.booleans(), st.integers(1, 3))
def test_infill_plans_each_masked_cell_once_and_shows_each_other_cell_once(cells, with_text, in_document, max_spans):
  layout = DOCUMENT if in_document else SEQUENCE
  prompt = prompts.infill_image(V, layout, [7] if with_text else None, IMAGE, cells, max_spans=max_spans)
  np.testing.assert_array_equal(sorted(prompt.cells[prompt.cells >= 0]), np.flatnonzero(cells))
  shown = np.concatenate([prompt.tokens, prompt.given])
  np.testing.assert_array_equal(sorted(shown[V.is_image(shown)]), IMAGE[~np.array(cells)])
  # Un-infilling: what is drawn lands in the masked cells, everything else is untouched.
  drawn = np.where(prompt.given >= 0, prompt.given, V.image_ids(7))
  np.testing.assert_array_equal(prompts.image_of(prompt, drawn, IMAGE), np.where(cells, V.image_ids(7), IMAGE))
  # As many sentinels in the tail as spans, each followed by its cells and <eoss>.
  runs = min(max_spans, np.count_nonzero(np.diff([0, *map(int, cells)]) == 1))
  assert np.count_nonzero(prompt.given == V.eoss_id) == runs
  assert np.count_nonzero(V.is_sentinel(prompt.given)) == runs - 1


def test_text_of_ends_at_the_stop():
  prompt = prompts.image_to_text(V, DOCUMENT, IMAGE)
  np.testing.assert_array_equal(prompts.text_of(prompt, [5, 6, V.eoss_id, 0]), [5, 6])
  np.testing.assert_array_equal(prompts.text_of(prompt, [5, 6, 7, V.eoss_id]), [5, 6, 7])


def test_region_to_cells():
  layout = Layout(image_tokens=16, text_tokens=3, max_documents=1)
  square = prompts.region_cells(layout, (8, 0, 16, 9), 32).reshape(4, 4)  # 8 px a cell
  np.testing.assert_array_equal(square, [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
  assert prompts.region_cells(layout, (0, 0, 32, 32), 32).all()
  assert prompts.region_cells(layout, (31, 31, 32, 32), 32).sum() == 1


@pytest.mark.parametrize("region", [(0, 0, 33, 8), (-1, 0, 8, 8), (8, 0, 8, 8), (9, 0, 8, 8)])
def test_region_outside_or_empty_is_refused(region):
  with pytest.raises(InputError, match=f"region {','.join(map(str, region))} is empty or lies outside .* 32 x 32"):
    prompts.region_cells(Layout(image_tokens=16, text_tokens=3, max_documents=1), region, 32)


@pytest.mark.parametrize("call, message", [
    (lambda: prompts.text_to_image(V, DOCUMENT, [7], DOCS * 3), r"4 pairs .*\(K=3 .* exceed the 3"),
    (lambda: prompts.edit(V, DOCUMENT, [7], IMAGE, [8], DOCS * 2), r"4 pairs"),
    (lambda: prompts.text_to_image(V, DOCUMENT, [7] * 4), "the text has 4 tokens, the model reads at most 3"),
    (lambda: prompts.text_to_image(V, SEQUENCE, [7], [Pair(np.full(5, 7), IMAGE)]), "text 1 of 2 has 5 tokens"),
    (lambda: prompts.image_to_text(V, DOCUMENT, IMAGE, [4, 5], [6]), r"4 tokens \(the masked span counted as one\)"),
    (lambda: prompts.text_to_image(V, DOCUMENT, []), "the text is empty"),
    (lambda: prompts.edit(V, DOCUMENT, [7], IMAGE, []), "the instruction is empty"),
    (lambda: prompts.infill_image(V, DOCUMENT, [7], IMAGE, [0] * 4), "covers no cell"),
    (lambda: prompts.image_to_text(V, DOCUMENT, IMAGE[:3]), "an image of 3 codes, the model reads images of 4"),
    (lambda: prompts.infill_image(Vocabulary(20, 8, 1, 0), DOCUMENT, [7], IMAGE, [1, 0, 1, 0]), "more than 1 masked"),
])
def test_what_does_not_fit_is_refused_with_the_arithmetic(call, message):
  with pytest.raises(InputError, match=message):
    call()


@pytest.mark.parametrize("call", [
    lambda: prompts.text_to_image(V, DOCUMENT, [V.break_id]),
    lambda: prompts.text_to_image(V, DOCUMENT, [1]),
    lambda: prompts.image_to_text(V, DOCUMENT, [0, 1, 2, 3]),
    lambda: prompts.infill_text(V, DOCUMENT, [7], IMAGE),
])
def test_ids_of_the_wrong_kind_are_a_bug(call):
  with pytest.raises(ValueError):
    call()
