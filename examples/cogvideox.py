"""CogVideoX with sparse attention: tune once over five prompts, then write videos by the profile.

    pip install 'secateur[diffusers]' imageio imageio-ffmpeg sentencepiece
    python examples/cogvideox.py tune cogvideox.safetensors
    python examples/cogvideox.py write cogvideox.safetensors "a heron lands on a pond at dawn" heron.mp4

Needs the weights (THUDM/CogVideoX-2b, downloaded by diffusers) and a GPU with 24 GB.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from secateur.attention import AttentionProfile, diffusion

PROMPTS = [
    "A street musician plays the violin in the rain while people hurry past with umbrellas.",
    "Waves break over black rocks, seen from a drone that circles a lighthouse.",
    "A chef's hands fold dumplings on a floured table, steam rising behind them.",
    "A red train crosses a stone viaduct in the mountains, first snow on the trees.",
    "Two foxes play in tall grass at sunset, the camera follows them close to the ground.",
]


def main() -> None:
    options = parse_options()
    pipeline = load(options.model)
    if options.command == "tune":
        runs = [lambda prompt=prompt: write(pipeline, prompt, options, "latent") for prompt in PROMPTS]
        profile = diffusion.tune(pipeline, runs, l1=options.l1, pv_l1=options.pv_l1)
        profile.save(options.profile)
        print(f"{profile.sparsity:.1%} of the blocks left out; {options.profile}")
        return
    from diffusers.utils import export_to_video

    applied = diffusion.apply(pipeline, AttentionProfile.load(options.profile))
    export_to_video(write(pipeline, options.prompt, options, "pil")[0], str(options.output), fps=8)
    print(f"{applied.sparsity:.1%} of the blocks left out; {options.output}")


def load(model: str) -> Any:
    from diffusers import CogVideoXPipeline

    pipeline = CogVideoXPipeline.from_pretrained(model, torch_dtype=torch.bfloat16)
    pipeline.enable_model_cpu_offload()
    pipeline.vae.enable_tiling()
    return pipeline


def write(pipeline: Any, prompt: str, options: argparse.Namespace, kind: str) -> Any:
    generator = torch.Generator().manual_seed(options.seed)
    return pipeline(
        prompt, num_frames=options.frames, num_inference_steps=options.steps, generator=generator, output_type=kind
    ).frames


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="THUDM/CogVideoX-2b")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    commands = parser.add_subparsers(dest="command", required=True)
    tune = commands.add_parser("tune", help="find thresholds over five prompts")
    tune.add_argument("profile", type=Path)
    tune.add_argument("--l1", type=float, default=0.06)
    tune.add_argument("--pv-l1", type=float, default=0.07)
    video = commands.add_parser("write", help="write a video")
    video.add_argument("profile", type=Path)
    video.add_argument("prompt")
    video.add_argument("output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
