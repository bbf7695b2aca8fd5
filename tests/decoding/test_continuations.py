"""Given continuations get what the engine reports for tokens that it draws itself."""

import jax
import numpy as np
import pytest
from small import LAYOUT, V, config, documents, image, parameters, text

from cm3leon_jax.decoding import prompts
from cm3leon_jax.decoding.engine import Engine, Request
from cm3leon_jax.decoding.rules import Sampling
from cm3leon_jax.errors import InputError

CONFIG = config()
ENGINE = Engine(CONFIG, parameters(CONFIG))


@pytest.mark.parametrize("docs", [0, 1])
def test_drawn_texts_get_the_engines_own_log_probabilities(docs):
  prompt = prompts.image_to_text(V, LAYOUT, image(3), before=text(2, 1), docs=documents(docs))
  drawn = ENGINE.generate([Request((prompt,), Sampling(temperature=3.0, top_p=1.0), seed=7, candidates=24)])[0]
  lengths = (drawn.tokens != 0).sum(1)
  assert len(set(lengths)) > 1, "texts of one length would not show how padding is treated"
  scored = ENGINE.log_probs(prompt, [tokens[:n] for tokens, n in zip(drawn.tokens, lengths)])
  for n, own, got in zip(lengths, drawn.log_probs, scored):
    np.testing.assert_allclose(got, own[:n], rtol=1e-4, atol=1e-5)


def test_what_the_grammar_forbids_is_impossible():
  prompt = prompts.image_to_text(V, LAYOUT, image(3), before=text(2, 1))
  nothing, word = ENGINE.log_probs(prompt, [np.array([prompt.stop]), np.append(text(1, 2), prompt.stop)])
  assert nothing[0] == -np.inf and np.isfinite(word).all()  # a span has at least one token


def test_a_damaged_model_is_told():
  broken = jax.tree.map(lambda x: x * np.nan, parameters(CONFIG))
  prompt = prompts.image_to_text(V, LAYOUT, image(3), before=text(2, 1))
  with pytest.raises(InputError, match="logits are not finite"):
    Engine(CONFIG, broken).log_probs(prompt, [np.append(text(1, 2), prompt.stop)])


def test_a_continuation_beyond_the_plan_is_refused():
  prompt = prompts.image_to_text(V, LAYOUT, image(3), before=text(2, 1))
  for bad in ([], np.ones(prompt.steps + 1, int)):
    with pytest.raises(InputError, match="continuation 1 has"):
      ENGINE.log_probs(prompt, [text(1, 2), bad])
