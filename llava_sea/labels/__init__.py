"""Labels, offline: from a corpus of captions and pictures to words for every patch (3.1)."""
