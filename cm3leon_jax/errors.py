"""The one exception that means: the input was wrong, and here is what to do."""


class InputError(Exception):
  """Bad input from a person: a file, a field, a flag.

  The message is one sentence that names the thing and says what to do. The
  command line prints it without a traceback and exits with code 1; `--debug`
  shows the traceback.
  """
