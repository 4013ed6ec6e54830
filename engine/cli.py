"""What the command lines share."""

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows a flag's default where it is a value: not for switches, nor where the text says what happens without."""

    def _get_help_string(self, action):
        said = action.default is None or action.default == [] or isinstance(action.default, bool)
        return action.help if said else super()._get_help_string(action)
