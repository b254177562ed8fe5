"""Stands for the module that needs a language model; it is not to be had here."""

import a_language_model_that_is_not_installed

Wrapper = a_language_model_that_is_not_installed.Wrapper
