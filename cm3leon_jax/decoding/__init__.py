"""Generation: prompt layouts, logits rules, the sampling engine, re-ranking."""
