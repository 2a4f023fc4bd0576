"""Temper: make image classifiers robust, know how robust they are, and which single decisions are brittle."""
