"""Is it any good: retrieval, probes, held-out text, and the suite that runs them and writes the results down."""
