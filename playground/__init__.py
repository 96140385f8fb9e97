"""The miniature world: pictures, captions and tiny models for a laptop."""
