"""Operations spelled for speed and memory: each one function, its tuned form chosen inside; they know no model."""

from tf_segformer.requirements import check_keras

check_keras()
