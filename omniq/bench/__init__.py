"""Measurements of speed and memory: single kernels beside their peers, and whole models."""
