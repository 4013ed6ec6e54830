"""Figures, panels, evaluation statistics, comparison of runs, tables of sweeps."""
