"""Plan cache, segments, binding and replay."""
