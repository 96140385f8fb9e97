"""What the benches share: flags, rows with what was reached and asked, timing, memory."""
