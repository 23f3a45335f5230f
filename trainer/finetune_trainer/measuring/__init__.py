"""How fast and how well a run goes: counted on every rank, gathered now and then, judged by pure functions."""
