"""The record format that builders and trainers share: schema, framing, reading by offset, decoding."""
