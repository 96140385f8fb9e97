"""Labels, offline: from a corpus of captions and images to words for every patch (3.1)."""
