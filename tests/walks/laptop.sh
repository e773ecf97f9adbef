# Someone was given a pruned model: does it open, what does it say, how fast is it, and a file for llama.cpp.
secateur diagnose given
secateur chat given --prompt "Who are you?"
secateur chat given --compare model --prompt "Who are you?"
secateur evaluate given --data notes.txt
secateur export given -o given.gguf
secateur chat given.gguf --prompt "Who are you?"
