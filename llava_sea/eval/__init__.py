"""The eight benchmarks: questions in, answers out, scores and submissions."""
