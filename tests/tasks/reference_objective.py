"""The CM3 rule in plain NumPy, one window at a time: what tasks/objective.py must equal.

It takes the same uniform numbers (a row of `objective.draw`), so equality is exact.
"""

import numpy as np

from cm3leon_jax.vocabulary import EOS_ID

F = np.float32


def units_of(segment_ids):
  """[(start, end)] of the runs of one positive segment id."""
  units = []
  for i, segment in enumerate(segment_ids):
    if segment == 0:
      continue
    if i == 0 or segment_ids[i - 1] != segment:
      units.append([i, i + 1])
    else:
      units[-1][1] = i + 1
  return units


def segments_of(vocabulary, tokens, unit):
  """[(start, end)] of the runs strictly between delimiters; the unit's first token counts as one."""
  segments = []
  inside = False
  for i in range(unit[0] + 1, unit[1]):
    if tokens[i] in (vocabulary.break_id, EOS_ID):
      inside = False
    elif inside:
      segments[-1][1] = i + 1
    else:
      segments.append([i, i + 1])
      inside = True
  return segments


def spans_of(objective, vocabulary, tokens, segment_ids, draws, answers=None):
  """Spans of one window: a list of lists, one a unit, of (start, end), ascending."""
  width = len(tokens)
  u_count, u_whole, u_answer, u_segment = draws[:4 * width].reshape(4, width)
  u_candidate = draws[4 * width:].reshape(-1, 2)
  budget = objective.max_spans
  next_segment = next_candidate = 0
  result = []
  for u, unit in enumerate(units_of(segment_ids)):
    segments = segments_of(vocabulary, tokens, unit)
    priority = u_segment[next_segment:next_segment + len(segments)]
    next_segment += len(segments)

    n = int(np.sum(u_count[u] >= objective.count_thresholds))
    n = max(n, objective.min_spans)
    answer = [i for i in range(*unit) if answers is not None and answers[i] > 0]
    answered = bool(answer) and u_answer[u] < F(objective.answer_mask_probability)
    if answered:
      n = 1
    n = min(n, budget)
    budget -= n
    spans = []
    if n and answered:
      spans = [(answer[0], answer[-1] + 1)]
    elif n and u_whole[u] < F(objective.whole_segment_probability) and (
        n < len(segments) or (n == 1 and len(segments) == 1)):
      spans = [tuple(segments[i]) for i in np.argsort(priority, kind="stable")[:n]]
    elif n:
      for draw in u_candidate[next_candidate:next_candidate + n * n]:
        length = F(unit[1] - unit[0])
        start = unit[0] + max(1, int(np.floor(F(draw.min()) * length)))
        end = unit[0] + int(np.floor(F(draw.max()) * length + F(0.5)))
        overlaps = [min(end, b) - max(start, a) for a, b in segments]
        if not overlaps or max(overlaps) <= 0:
          continue
        a, b = segments[int(np.argmax(overlaps))]
        start, end = max(start, a), min(end, b)
        if len(spans) < n and all(end <= c or d <= start for c, d in spans):
          spans.append((start, end))
      next_candidate += n * n
    result.append(sorted(spans))
  return result


def masked(objective, vocabulary, layout, window, draws):
  """The rearranged window, as a dict of [W + 3·max_spans] arrays."""
  tokens, weights = window["tokens"], window["loss_weights"]
  segment_ids, positions = window["segment_ids"], window["positions"]
  all_spans = spans_of(objective, vocabulary, tokens, segment_ids, draws, window.get("answers"))
  source, tails = [], []  # rows of (token, weight, segment, position)
  for unit, spans in zip(units_of(segment_ids), all_spans):
    segment = segment_ids[unit[0]]
    unit_source, unit_tails = [], []
    closed_up = 0  # text tokens gone since the segment began
    i = unit[0]
    numbers = {start: (k, end) for k, (start, end) in enumerate(spans)}
    while i < unit[1]:
      is_text = vocabulary.is_text(tokens[i]) and tokens[i] != EOS_ID
      if not is_text:
        closed_up = 0
      if i in numbers:
        k, end = numbers[i]
        shifted = positions[i] - closed_up
        sentinel = [vocabulary.sentinel(k), objective.sentinel_loss_weight * weights[i], segment, shifted]
        unit_source.append(list(sentinel))
        unit_tails.append(list(sentinel))
        for j in range(i, end):
          unit_tails.append([tokens[j], weights[j], segment, positions[j] - closed_up])
        unit_tails.append([vocabulary.eoss_id, weights[end - 1], segment, positions[end - 1] - closed_up + 1])
        if is_text:
          closed_up += end - i - 1
        i = end
      else:
        unit_source.append([tokens[i], weights[i], segment, positions[i] - closed_up])
        i += 1
    if layout.numbering == "sequence":
      for position, row in enumerate(unit_source + unit_tails):
        row[3] = position
    source += unit_source
    tails += unit_tails
  rows = source + tails
  out = len(tokens) + 3 * objective.max_spans
  assert len(rows) <= out
  rows += [[0, 0.0, 0, 0]] * (out - len(rows))
  columns = list(zip(*rows))
  return {"tokens": np.array(columns[0], np.int32), "loss_weights": np.array(columns[1], np.float32),
          "segment_ids": np.array(columns[2], np.int32), "positions": np.array(columns[3], np.int32)}


def unmasked(vocabulary, window):
  """Un-infills: (tokens, segment_ids) of the real tokens of the window as it was before masking."""
  sources, spans = {}, {}
  seen = set()
  open_span = None
  for token, segment in zip(window["tokens"], window["segment_ids"]):
    if segment == 0:
      continue
    if vocabulary.is_sentinel(token):
      if (segment, token) in seen:
        open_span = spans.setdefault((segment, token), [])
      else:
        seen.add((segment, token))
        sources.setdefault(segment, []).append(token)
    elif token == vocabulary.eoss_id:
      open_span = None
    elif open_span is not None:
      open_span.append(token)
    else:
      sources.setdefault(segment, []).append(token)
  tokens, segment_ids = [], []
  for segment, source in sources.items():
    for token in source:
      content = spans[segment, token] if vocabulary.is_sentinel(token) else [token]
      tokens += content
      segment_ids += [segment] * len(content)
  return np.array(tokens, np.int32), np.array(segment_ids, np.int32)
