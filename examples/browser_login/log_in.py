"""Let an agent log in to a shop with a password and a code that its model never sees.

Run ``python log_in.py``; ``python log_in.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from browsing import find_browser
from login_agent import HERE, open_folder, shopper, store_account
from shop import Shop, serve_shop

from pipelit_agents.errors import PipelitError, SecretLeakError


def main() -> None:
    """Run the example, as the command line says."""
    options = _options()
    browser = None if options.forms else find_browser()
    print(f"1. The agent logs in by {browser or 'form posts of httpx, without a browser'}.")
    shop = Shop(nosy=options.nosy)
    try:
        with open_folder(options.folder) as pipelit, serve_shop(shop):
            store_account(pipelit, shop)
            agent = shopper(pipelit, browser, options.model)
            messages = conversation(agent, options.question)
    except (PipelitError, OSError) as error:
        sys.exit(f"log_in.py: {error}\n(the database is in {options.folder})")
    print(f"   The shop received: {'; '.join(shop.sent) or 'nothing'}")
    report(messages, shop, options.folder)


def conversation(agent: Any, question: str) -> list[str]:
    """Run the agent, and return all that its model saw and wrote, as lines."""
    seen: list[str] = []
    try:
        for state in agent.stream({"messages": [("user", question)]}, stream_mode="values"):
            message = state["messages"][-1]
            calls = "".join(
                f"calls {call['name']}({call['args'] or ''})"
                for call in getattr(message, "tool_calls", [])
            )
            seen.append(f"{message.type:6}| {calls or message.text}")
    except SecretLeakError as error:
        # The run ends before the model gets the tool's result.
        seen.append(f"stopped | {error}")
    return seen


def report(messages: list[str], shop: Shop, folder: Path) -> None:
    """Print the conversation, and where the secrets are in it and in the files."""
    print("\n2. All that the model saw and wrote:")
    for line in messages:
        print(textwrap.fill(line, 79, initial_indent="   ", subsequent_indent="         | "))
    (seed,) = parse_qs(urlsplit(shop.uri).query)["secret"]
    files = [each.read_bytes() for each in folder.rglob("*") if each.is_file()]
    print("\n3. Where the secrets are in clear:")
    for name, secret in (("password", shop.password), ("seed", seed)):
        in_messages = sum(secret in line for line in messages)
        in_files = sum(secret.encode() in content for content in files)
        print(f"   the {name:8} in {in_messages} messages, in {in_files} of {len(files)} files")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", nargs="?", default="Which orders are on their way?")
    parser.add_argument(
        "--model", help="a chat model, such as openai:gpt-5-mini; default: a script"
    )
    parser.add_argument("--forms", action="store_true", help="use no browser, also if there is one")
    parser.add_argument("--nosy", action="store_true", help="the shop's page repeats the password")
    parser.add_argument(
        "--folder", type=Path, default=HERE / ".data", help="the folder of the database"
    )
    options = parser.parse_args()
    if options.model and not all(options.model.partition(":")):
        parser.error("--model is provider:name, such as openai:gpt-5-mini")
    options.folder = options.folder.absolute()
    return options


if __name__ == "__main__":
    main()
