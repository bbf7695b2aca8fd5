"""The paper's fine-tuning tasks over official files as downloaded (PAPER §7.2).

    official files ─► examples ─► samples ─► windows ─► training
      sources.py      pipelines/   tasks.py   tasks/windows.py
                      examples.py

An `examples` record is one picture, with the picture that stands before it where a task has two, and all texts that
belong to it:

    id      str
    images  uint16[n, I]: codes of the image tokenizer, the picture to draw last
    texts   list of {field: value}: the words that the templates of `wording.py` are filled with

Pictures are encoded once, offline. Words stay words: wordings, the choice among ten people's answers, the text
tokenizer and the order of the two pictures are a matter of the task, so none of them asks for encoding anew; to
tokenize a text of 30 tokens when a sample is drawn costs microseconds, a thousandth of encoding its picture. Codes are
not yet ids of the one id space, for the same reason. A picture with five captions or six questions is encoded and
stored once (2 KiB at 1,024 codes); a row of a task is a text, found through `texts.npy`, the number of texts of each
record (4 bytes a picture). So 10 M control pairs are 40 GB, and opening them reads 40 MB.
"""
