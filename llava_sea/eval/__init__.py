"""The eight benchmarks; a file, a record or a flag that is wrong is named in a `UserError`."""
