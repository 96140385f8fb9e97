"""One scorer per benchmark: official annotations and answers in, a `Score` out."""
