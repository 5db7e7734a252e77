"""python spark_segment.py SAVEDMODEL IMAGES OUTPUT: one row per image, as Parquet, by Spark over an exported model."""

import base64
import sys

import numpy as np
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

saved_model, images, output = sys.argv[1:]


def load():  # once per Python worker
    import tensorflow as tf

    model = tf.saved_model.load(saved_model)

    def predict(content: np.ndarray) -> dict[str, np.ndarray]:
        answer = model.signatures["serving_default"](image_bytes=tf.constant(list(content)))
        status = [each.decode() for each in answer["status"].numpy()]
        masks = [base64.b64encode(mask).decode() for mask in answer["class_map_bytes"].numpy()]
        return {
            "status": np.array(status, object),
            "class_fractions": answer["class_fractions"].numpy(),  # (B, K), in the order of labels.txt
            "mask": np.array(masks, object),  # PNG in base64, since the function has no columns of bytes
        }

    return predict


spark = SparkSession.builder.getOrCreate()
columns = StructType.fromDDL("status string, class_fractions array<float>, mask string")
segment = predict_batch_udf(load, return_type=columns, batch_size=16)
files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(images)
files.select("path", segment("content").alias("answer")).select("path", "answer.*").write.parquet(output)
spark.stop()
