"""Tests of MLBuffet."""
