"""Stages of a run: its plan, trained models, attacks and unlearning."""
