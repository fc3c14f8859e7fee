"""Completions for shells: scripts that contain all commands and options, so that completion does not start Python.

tyro can also print such scripts, but they do not complete positional arguments and their files.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Final

from sdclr.cli.catalog import CATALOG
from sdclr.cli.optionlist import Option, options_of
from sdclr.errors import InputError

_GLOBAL: Final = ("--help", "--version", "--completion")
_EVERY: Final = {
    "--help": "explain the command",
    "--help-all": "explain all options",
    "--quiet": "leave out all but results and errors",
    "--debug": "show tracebacks",
}
"""Options of every command, and their help."""


def script(words: Sequence[str]) -> str:
    """The completion script of a shell.

    Args:
        words: The words after `--completion`: the name of the shell, bash, zsh or fish.

    Raises:
        InputError: If the shell is not supported.
    """
    if len(words) != 1 or words[0] not in _SHELLS:
        raise InputError(f"--completion takes one of {', '.join(_SHELLS)}, not {' '.join(words)!r}")
    return "\n".join(_SHELLS[words[0]]()) + "\n"


def command_options(name: str) -> list[Option]:
    """The options of a command."""
    return list(options_of(getattr(import_module(f"sdclr.cli.commands.{CATALOG[name].module}"), CATALOG[name].kind)))


def _names(option: Option) -> tuple[str, ...]:
    """Names on the command line: flags have a second one, such as `--no-page`."""
    if not option.flag:
        return (option.name,)
    *section, last = option.name.removeprefix("--").split(".")
    return option.name, "--" + ".".join([*section, f"no-{last}"])


def _bash() -> Iterator[str]:
    yield from (
        "_sdclr() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}" last="" i words=""',
        "  COMPREPLY=()",
        '  if [[ "$cur" == "=" ]]; then cur=""; fi',
        "  for ((i = COMP_CWORD - 1; i > 1; i--)); do",
        '    if [[ "${COMP_WORDS[i]}" == --* ]]; then last="${COMP_WORDS[i]}"; break; fi',
        "  done",
        "  if ((COMP_CWORD == 1)); then",
        f'    words="{" ".join((*CATALOG, *_GLOBAL))}"',
        '  elif [[ "$cur" == -* ]]; then',
        '    case "$command" in',
    )
    for name in CATALOG:
        typed = [each for one in command_options(name) if not one.positional for each in _names(one)]
        yield f'      {name}) words="{" ".join((*typed, *_EVERY))}" ;;'
    yield from ("    esac", "  else", '    case "$command $last" in')
    for name in CATALOG:
        for one in command_options(name):
            if one.choices and not one.flag:
                yield f'      "{name} {"" if one.positional else one.name}") words="{" ".join(one.choices)}" ;;'
    yield from (
        '      "--completion ") words="bash zsh fish" ;;',
        "    esac",
        "  fi",
        '  if [[ -n "$words" ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); fi',
        "}",
        "complete -o default -F _sdclr sdclr  # files, where nothing else fits",
    )


def _zsh() -> Iterator[str]:
    yield from ("#compdef sdclr", "_sdclr() {", "  local context state line", "  local -a commands=(")
    yield from (f"    '{name}:{_quoted(entry.summary)}'" for name, entry in CATALOG.items())
    yield from (
        "  )",
        "  _arguments -C '--help[list the commands]' '--version[print the version]' \\",
        "    '--completion[print completions]:shell:(bash zsh fish)' '1: :->command' '*:: :->options'",
        '  [[ "$state" == command ]] && _describe command commands',
        '  [[ "$state" == options ]] || return',
        '  case "$line[1]" in',
    )
    for name in CATALOG:
        specs = [f"'{each}[{text}]'" for each, text in _EVERY.items()]
        for one in command_options(name):
            values = f"({' '.join(one.choices)})" if one.choices else "_files" if _takes_files(one) else " "
            if one.positional:
                specs.append(f"'*:{one.name}:{values}'")
            elif one.flag:
                specs += [f"'{each}[{_zsh_text(one)}]'" for each in _names(one)]
            else:
                specs.append(f"'{one.name}[{_zsh_text(one)}]:value:{values}'")
        yield f"    {name}) _arguments \\"
        yield from (f"      {spec} \\" for spec in specs)
        yield "      ;;"
    # A sourced script registers the function. If it is autoloaded from $fpath, the function is called at once.
    yield from ("  esac", "}", 'if [[ "$funcstack[1]" == _sdclr ]]; then _sdclr "$@"; else compdef _sdclr sdclr; fi')


def _takes_files(option: Option) -> bool:
    return option.positional or "PATH" in option.metavar or option.metavar in {"IMAGES", "ENCODER"}


def _zsh_text(option: Option) -> str:
    text = _quoted(_first_sentence(option))
    for special in "\\[]:":
        text = text.replace(special, f"\\{special}")
    return text


def _fish() -> Iterator[str]:
    for name, entry in CATALOG.items():
        yield f"complete -c sdclr -n __fish_use_subcommand -f -a {name} -d '{_quoted(entry.summary)}'"
    yield from (f"complete -c sdclr -n __fish_use_subcommand -f -l {name.removeprefix('--')}" for name in _GLOBAL)
    for name in CATALOG:
        seen = f"complete -c sdclr -n '__fish_seen_subcommand_from {name}'"
        yield from (f"{seen} -l {each.removeprefix('--')} -d '{text}'" for each, text in _EVERY.items())
        for one in command_options(name):
            values = f" -a '{' '.join(one.choices)}'" if one.choices else ""
            if one.positional:
                yield from [f"{seen} -f{values}"] if values else []
                continue
            takes = "" if one.flag else " -r" if _takes_files(one) else f" -x{values}"
            text = _quoted(_first_sentence(one))
            yield from (f"{seen} -l {each.removeprefix('--')}{takes} -d '{text}'" for each in _names(one))


def _first_sentence(option: Option) -> str:
    return option.help.partition(". ")[0].rstrip(".")


def _quoted(text: str) -> str:
    """Text for single quotes."""
    return text.replace("'", "\u2019")


_SHELLS: Final[dict[str, Callable[[], Iterator[str]]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
