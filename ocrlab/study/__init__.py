"""Settings × pages → rows: what was asked, what was in force, what was measured, what came of it."""
