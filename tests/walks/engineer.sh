# She has a checkpoint of her own and conversations, and wants a smaller model that still answers.
secateur plan model --devices 4090
secateur evaluate model --data chats.jsonl --json before.json
secateur prune model -o out/pruned --ratio 0.2 --calibration chats.jsonl
secateur recover out/pruned -o out/recovered --merge --data 'chats.jsonl:0.7,notes.txt[:80%]:0.3' --teacher model
secateur evaluate model out/pruned out/recovered --data 'notes.txt[80%:]' --json after.json
secateur compare before.json after.json -o out/compared
secateur diagnose out/recovered
secateur push out/recovered me/my-model --dry-run
