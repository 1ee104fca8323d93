"""Letters and notes in five languages, from sentences whose slots fit by construction. CC0 1.0.

People are women throughout and things are nouns whose form does not change in the places where they stand, so that
agreement needs no rules: every sentence is grammatical whatever is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """Slots and sentences: `asks` open a conversation, `says` are picked and ordered at random, `more` asks for more."""

    code: str
    people: tuple[str, ...]
    towns: tuple[str, ...]
    things: tuple[str, ...]
    days: tuple[str, ...]
    asks: tuple[str, ...]
    says: tuple[str, ...]
    more: tuple[str, ...]
    join: str = " "


ENGLISH = Language(
    "en",
    ("Agnes", "Beatrice", "Clara", "Dorothy", "Edith", "Flora", "Grace", "Harriet", "Isobel", "Judith"),
    ("Bristol", "Durham", "Exeter", "Lincoln", "Norwich", "Oxford", "Truro", "Whitby", "York", "Inverness"),
    (
        "the bicycle",
        "the old lamp",
        "the blue suitcase",
        "the clock",
        "the piano",
        "the tent",
        "the camera",
        "the sledge",
    ),
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    (
        "Write a short letter in which {a} tells {b} about a trip to {t}.",
        "{a} has bought {x} in {t}. Write what she tells her sister {b} about it.",
        "Tell in a few sentences how {a} and {b} spent {d} in {t}.",
        "A note from {a} to {b}, please: {x}, {t}, {n} pounds.",
    ),
    (
        "{a} had been looking for {x} for {m} weeks before she found it.",
        "On {d} the train to {t} was {k} minutes late, and nobody could say why.",
        "The market opens at {h} in the morning, when the streets are still wet.",
        "{b} had promised to bring {x}, but she left it at home.",
        "A ticket costs {n} pounds, which is more than last year.",
        "From the hill one sees the whole of {t}, and on clear days even the sea.",
        "They ate soup with bread, paid {k} pounds and walked back along the river.",
        "Whoever arrives after {h} has to ring the bell twice.",
        "The landlady told them that {m} guests had left because of the noise.",
        "It rained until noon, yet {a} would not hear of staying indoors.",
        "If the weather holds, they will go on to {u} on {e}.",
        "{b} keeps {m} hens and sells the eggs to the baker next door.",
        "Neither {a} nor {b} remembered where the key was hidden.",
        "In {u} there is a museum with {n} rooms, of which only {k} are open.",
        "She wrote the number {q} on the back of the receipt so as not to forget it.",
        "What surprised her most was how quiet the town became after {h}.",
        "The man at the counter weighed the parcel and asked for {k} pounds.",
        "Since {e} the bridge has been closed, so everyone takes the ferry.",
        "{a} thanked her, put {x} under her arm and ran for the bus.",
        "By the time they reached {u}, the lights had been lit for an hour.",
        "There were {n} steps up to the tower, and {b} counted every one.",
        "Her neighbour believes that {t} is nicer in winter than in summer.",
    ),
    (
        "And what happened the next day?",
        "How did it go on?",
        "Add a few lines about the way home.",
        "What does {b} answer?",
    ),
)

GERMAN = Language(
    "de",
    ("Annegret", "Brigitte", "Charlotte", "Dörte", "Elisabeth", "Friederike", "Gudrun", "Hannelore", "Ilse", "Käthe"),
    ("Bamberg", "Celle", "Dresden", "Erfurt", "Göttingen", "Husum", "Lübeck", "Münster", "Tübingen", "Würzburg"),
    (
        "das Fahrrad",
        "die alte Lampe",
        "das blaue Kleid",
        "die Uhr",
        "das Klavier",
        "das Zelt",
        "die Kamera",
        "die Leiter",
    ),
    ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"),
    (
        "Schreibe einen kurzen Brief, in dem {a} ihrer Schwester {b} von einer Reise nach {t} erzählt.",
        "{a} hat in {t} etwas gekauft: {x}. Was erzählt sie {b} davon?",
        "Erzähle in wenigen Sätzen, wie {a} und {b} den {d} in {t} verbracht haben.",
        "Bitte eine Nachricht von {a} an {b}: {x}, {t}, {n} Euro.",
    ),
    (
        "{a} hatte {m} Wochen lang gesucht, bevor sie {x} endlich fand.",
        "Am {d} kam der Zug nach {t} mit {k} Minuten Verspätung an, und niemand wusste, warum.",
        "Der Markt öffnet um {h} Uhr, wenn die Straßen noch nass sind.",
        "{b} hatte versprochen, {x} mitzubringen, ließ es aber bleiben.",
        "Eine Karte kostet {n} Euro, also mehr als im vergangenen Jahr.",
        "Vom Hügel aus sieht man ganz {t} und an klaren Tagen sogar die Berge.",
        "Sie aßen Suppe mit Brot, bezahlten {k} Euro und gingen am Fluss entlang zurück.",
        "Wer nach {h} Uhr ankommt, muss zweimal klingeln.",
        "Die Wirtin erzählte ihnen, dass {m} Gäste wegen des Lärms abgereist seien.",
        "Bis zum Mittag regnete es, doch {a} wollte auf keinen Fall im Haus bleiben.",
        "Wenn das Wetter hält, fahren sie am {e} weiter nach {u}.",
        "{b} hält {m} Hühner und verkauft die Eier an den Bäcker nebenan.",
        "Weder {a} noch {b} erinnerte sich daran, wo der Schlüssel lag.",
        "In {u} gibt es ein Museum mit {n} Räumen, von denen nur {k} geöffnet sind.",
        "Sie schrieb die Nummer {q} auf die Rückseite der Quittung, um sie nicht zu vergessen.",
        "Am meisten überraschte sie, wie still die Stadt nach {h} Uhr wurde.",
        "Der Mann am Schalter wog das Paket und verlangte {k} Euro.",
        "Seit {e} ist die Brücke gesperrt, deshalb nehmen alle die Fähre.",
        "{a} bedankte sich, nahm {x} und lief zum Bus.",
        "Als sie {u} erreichten, brannten die Laternen schon seit einer Stunde.",
        "Auf den Turm führen {n} Stufen, und {b} zählte jede einzelne.",
        "Ihre Nachbarin meint, dass {t} im Winter schöner sei als im Sommer.",
    ),
    (
        "Und was geschah am nächsten Tag?",
        "Wie ging es weiter?",
        "Füge einige Zeilen über den Heimweg hinzu.",
        "Was antwortet {b}?",
    ),
)

FRENCH = Language(
    "fr",
    ("Amélie", "Bérénice", "Camille", "Delphine", "Élodie", "Françoise", "Geneviève", "Hélène", "Inès", "Joséphine"),
    ("Angers", "Besançon", "Colmar", "Dijon", "Grenoble", "Limoges", "Nîmes", "Quimper", "Rouen", "Valence"),
    ("le vélo", "la vieille lampe", "la valise bleue", "la montre", "le piano", "la tente", "le miroir", "la luge"),
    ("lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"),
    (
        "Écris une courte lettre dans laquelle {a} raconte à {b} son voyage à {t}.",
        "{a} a trouvé {x} à {t}. Que raconte-t-elle à sa sœur {b} ?",
        "Raconte en quelques phrases comment {a} et {b} ont passé la journée de {d} à {t}.",
        "Un mot que {a} envoie à {b}, s'il te plaît : {x}, {t}, {n} euros.",
    ),
    (
        "{a} avait cherché pendant {m} semaines avant de trouver {x}.",
        "{D}, le train pour {t} avait {k} minutes de retard, et personne ne savait pourquoi.",
        "Le marché ouvre à {h} heures, quand les rues sont encore mouillées.",
        "{b} avait promis d'apporter {x}, mais elle n'y a plus pensé.",
        "Un billet coûte {n} euros, c'est plus que l'année dernière.",
        "Depuis la colline, on voit tout le centre et, par temps clair, même les montagnes.",
        "Elles ont mangé une soupe avec du pain, payé {k} euros et longé la rivière.",
        "Celui qui arrive après {h} heures doit sonner deux fois.",
        "La logeuse leur a dit que {m} clients étaient partis à cause du bruit.",
        "Il a plu jusqu'à midi, mais {a} refusait de rester à la maison.",
        "Si le temps le permet, elles iront à {u} {e} prochain.",
        "{b} élève {m} poules et vend les œufs au boulanger d'à côté.",
        "Ni {a} ni {b} ne se souvenaient de l'endroit où se trouvait la clé.",
        "À {u}, il y a un musée de {n} salles, dont {k} seulement sont ouvertes.",
        "Elle a noté le numéro {q} au dos du reçu pour ne pas l'oublier.",
        "Ce qui l'a le plus étonnée, c'est le calme de la ville après {h} heures.",
        "L'homme au guichet a pesé le colis et demandé {k} euros.",
        "Depuis {e}, le pont est fermé, alors tout le monde prend le bac.",
        "{a} l'a remerciée, a pris {x} et a couru vers l'autobus.",
        "Quand elles sont arrivées à {u}, les lampes brillaient depuis une heure.",
        "Il y a {n} marches jusqu'en haut de la tour, et {b} les a toutes comptées.",
        "Sa voisine pense que {t} est plus belle en hiver qu'en été.",
    ),
    (
        "Et que s'est-il passé le lendemain ?",
        "Comment cela a-t-il continué ?",
        "Ajoute quelques lignes sur le retour.",
        "Que répond {b} ?",
    ),
)

SPANISH = Language(
    "es",
    ("Ainhoa", "Begoña", "Consuelo", "Dolores", "Encarnación", "Fátima", "Guadalupe", "Inmaculada", "Jimena", "Rocío"),
    ("Ávila", "Burgos", "Cáceres", "Granada", "Huesca", "León", "Lugo", "Málaga", "Oviedo", "Zamora"),
    (
        "la bicicleta",
        "la lámpara vieja",
        "la maleta azul",
        "la caja de música",
        "la guitarra",
        "la mochila",
        "la cámara",
        "la escalera",
    ),
    ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"),
    (
        "Escribe una carta breve en la que {a} le cuenta a {b} un viaje a {t}.",
        "{a} ha comprado {x} en {t}. ¿Qué le cuenta a su hermana {b}?",
        "Cuenta en pocas frases cómo {a} y {b} pasaron el {d} en {t}.",
        "Una nota de {a} para {b}, por favor: {x}, {t}, {n} euros.",
    ),
    (
        "{a} había buscado durante {m} semanas antes de encontrar {x}.",
        "El {d} el tren a {t} llegó con {k} minutos de retraso y nadie sabía por qué.",
        "El mercado abre a las {h}, cuando las calles todavía están mojadas.",
        "{b} había prometido traer {x}, pero se le olvidó en casa.",
        "Una entrada cuesta {n} euros, más que el año pasado.",
        "Desde la colina se ve toda la ciudad y, en los días claros, hasta la sierra.",
        "Comieron sopa con pan, pagaron {k} euros y volvieron por la orilla del río.",
        "Quien llegue después de las {h} tiene que llamar dos veces.",
        "La dueña les contó que {m} huéspedes se habían marchado por el ruido.",
        "Llovió hasta el mediodía, pero {a} no quiso quedarse en casa.",
        "Si el tiempo lo permite, el {e} seguirán hasta {u}.",
        "{b} cría {m} gallinas y vende los huevos al panadero de al lado.",
        "Ni {a} ni {b} recordaban dónde estaba la llave.",
        "En {u} hay un museo con {n} salas, de las que solo {k} están abiertas.",
        "Apuntó el número {q} en el reverso del recibo para no olvidarlo.",
        "Lo que más le sorprendió fue el silencio de la ciudad después de las {h}.",
        "El hombre de la ventanilla pesó el paquete y pidió {k} euros.",
        "Desde el {e} el puente está cerrado, así que todos toman el barco.",
        "{a} le dio las gracias, cogió {x} y corrió hacia el autobús.",
        "Cuando llegaron a {u}, las farolas llevaban una hora encendidas.",
        "Hay {n} escalones hasta lo alto de la torre, y {b} los contó todos.",
        "Su vecina cree que {t} es más bonita en invierno que en verano.",
    ),
    (
        "¿Y qué pasó al día siguiente?",
        "¿Cómo siguió la historia?",
        "Añade unas líneas sobre el camino de vuelta.",
        "¿Qué contesta {b}?",
    ),
)

CHINESE = Language(
    "zh",
    ("秀英", "丽华", "婷婷", "雪梅", "玉兰", "晓燕", "美玲", "佳怡", "春花", "思敏"),
    ("苏州", "杭州", "成都", "大理", "青岛", "桂林", "西安", "厦门", "洛阳", "昆明"),
    ("自行车", "旧台灯", "蓝色箱子", "手表", "钢琴", "帐篷", "照相机", "梯子"),
    ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期天"),
    (
        "请写一封短信，{a}告诉{b}她去{t}旅行的经过。",
        "{a}在{t}买了{x}，她会怎么告诉妹妹{b}？",
        "用几句话讲讲{a}和{b}{d}在{t}是怎么过的。",
        "请替{a}给{b}写个便条，提到{x}、{t}和{n}元。",
    ),
    (
        "{a}找了{m}个星期，才找到{x}。",
        "{d}开往{t}的火车晚点了{k}分钟，谁也不知道为什么。",
        "市场早上{h}点开门，那时街道还是湿的。",
        "{b}答应带{x}来，可是忘在家里了。",
        "一张票要{n}元，比去年贵。",
        "从山上可以看到整个{t}，天气好的时候还能看到远处的湖。",
        "她们喝了汤，吃了面包，付了{k}元，然后沿着河边走回去。",
        "{h}点以后到的人要按两次门铃。",
        "老板娘告诉她们，有{m}位客人因为太吵已经走了。",
        "雨一直下到中午，但是{a}怎么也不肯待在屋里。",
        "如果天气好，她们{e}就继续去{u}。",
        "{b}养了{m}只鸡，把鸡蛋卖给隔壁的面包师。",
        "{a}和{b}都不记得钥匙放在哪里了。",
        "{u}有一座博物馆，一共{n}个展厅，只开放{k}个。",
        "她把号码{q}写在收据背面，免得忘记。",
        "最让她吃惊的是，{h}点以后城里变得非常安静。",
        "柜台后面的人称了包裹，要收{k}元。",
        "从{e}起桥就关闭了，所以大家都坐船。",
        "{a}道了谢，拿起{x}，朝公共汽车跑去。",
        "她们到{u}的时候，路灯已经亮了一个小时。",
        "塔上有{n}级台阶，{b}一级一级地数过。",
        "她的邻居觉得{t}的冬天比夏天更美。",
    ),
    ("第二天发生了什么？", "后来怎么样了？", "请再写几句回家的路上。", "{b}会怎么回答？"),
    "",
)  # fmt: skip

LANGUAGES = (ENGLISH, GERMAN, FRENCH, SPANISH, CHINESE)
